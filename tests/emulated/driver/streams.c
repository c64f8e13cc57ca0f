/* Streams: each has a worker of its own that does what it is given, in order, behind the host's back. */
#include "emulated.h"
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

extern __thread bool in_host_function;
static struct stream *streams[4096]; /* all that live or still work */
static size_t stream_count;
static struct stream *null_stream, *thread_stream;

void wait_for_stream(struct stream *stream, unsigned long long seq) {
  while (stream->done < seq) pthread_cond_wait(&changed, &big_lock);
}

void wait_for_all(void) {
  for (size_t index = 0; index < stream_count; index++) wait_for_stream(streams[index], streams[index]->queued);
}

/* ------------------------------------------------------------------------------------- the worker */

static CUresult fill(const struct op *op) {
  pthread_mutex_lock(&big_lock);
  unsigned char *to = reach(op->target, op->bytes);
  pthread_mutex_unlock(&big_lock);
  if (!to) return CUDA_ERROR_ILLEGAL_ADDRESS;
  for (size_t at = 0; at < op->bytes; at += op->width) memcpy(to + at, &op->pattern, op->width);
  return CUDA_SUCCESS;
}

/* Long waits leave the processor to others until shortly before their end. */
static void spin(long long nanoseconds) {
  long long end = now_ns() + nanoseconds, idle = nanoseconds - 1000000;
  if (idle > 0) nanosleep(&(struct timespec){idle / 1000000000, idle % 1000000000}, NULL);
  while (now_ns() < end) {}
}

static void host_function(const struct op *op, struct stream *stream) {
  in_host_function = true;
  if (op->kind == OP_HOST) op->host(op->data);
  else op->callback((CUstream)stream, CUDA_SUCCESS, op->data);
  in_host_function = false;
}

static CUresult run(const struct op *op, struct stream *stream, unsigned long long seq) {
  CUresult code = CUDA_SUCCESS;
  switch (op->kind) {
  case OP_COPY: return copy_now(op->target, op->source, op->bytes);
  case OP_FILL: return fill(op);
  case OP_HOST:
  case OP_CALLBACK: host_function(op, stream); return code;
  case OP_WORK: return op->work(op->data);
  case OP_SPIN:
    spin(op->spin_ns);
    return code;
  case OP_RECORD:
    pthread_mutex_lock(&big_lock);
    if (op->event->stream == stream && op->event->seq == seq) op->event->time_ns = now_ns();
    pthread_mutex_unlock(&big_lock);
    return code;
  case OP_WAIT:
    pthread_mutex_lock(&big_lock);
    wait_for_stream(op->stream, op->seq);
    pthread_mutex_unlock(&big_lock);
    return code;
  case OP_FREE:
    pthread_mutex_lock(&big_lock);
    code = memory_free_device(op->target);
    pthread_mutex_unlock(&big_lock);
    return code ? CUDA_ERROR_ILLEGAL_ADDRESS : code;
  case OP_GRAPH:
    for (size_t index = 0; !code && index < op->body->count; index++) code = run(&op->body->ops[index], stream, seq);
    return code;
  }
  return CUDA_ERROR_UNKNOWN;
}

static void delay(unsigned *seed) {
  long long most = setting_number("EMULATED_DELAY_US", 0);
  if (most <= 0) return;
  struct timespec pause = {0, (long)(rand_r(seed) % most) * 1000L};
  nanosleep(&pause, NULL);
}

static void *worker(void *given) {
  struct stream *stream = given;
  unsigned seed = (unsigned)stream->id;
  pthread_mutex_lock(&big_lock);
  while (true) {
    while (!stream->first && !stream->closing) pthread_cond_wait(&stream->work, &big_lock);
    struct op *op = stream->first;
    if (!op) break;
    /* A broken context does nothing more, but all that waits for it goes on. */
    bool skip = stream->context->broken && op->kind != OP_WAIT;
    unsigned long long seq = stream->done + 1;
    pthread_mutex_unlock(&big_lock);
    CUresult code = CUDA_SUCCESS;
    if (!skip) {
      delay(&seed);
      code = run(op, stream, seq);
    }
    free(op->owned);
    pthread_mutex_lock(&big_lock);
    if (code) context_break(stream->context, code);
    if (op->body) body_drop(op->body);
    stream->first = op->next;
    stream->done++;
    free(op);
    pthread_cond_broadcast(&changed);
  }
  for (size_t index = 0; index < stream_count; index++)
    if (streams[index] == stream) streams[index] = streams[--stream_count];
  pthread_mutex_unlock(&big_lock);
  return NULL;
}

/* --------------------------------------------------------------------------------------- submitting */

static void enqueue(struct stream *stream, struct op op) {
  struct op *made = malloc(sizeof *made);
  *made = op;
  made->next = NULL;
  if (stream->first) stream->last->next = made;
  else stream->first = made;
  stream->last = made;
  stream->queued++;
  if (op.event) {
    op.event->stream = stream;
    op.event->seq = stream->queued;
  }
  if (op.body)
    for (size_t index = 0; index < op.body->count; index++)
      if (op.body->ops[index].event) {
        op.body->ops[index].event->stream = stream;
        op.body->ops[index].event->seq = stream->queued;
      }
  pthread_cond_signal(&stream->work);
}

static void follow(struct stream *stream, struct stream *other) {
  if (other && other != stream && other->done < other->queued)
    enqueue(stream, (struct op){.kind = OP_WAIT, .stream = other, .seq = other->queued});
}

static void record(struct body *body, struct op op) {
  if (body->count == body->room) {
    body->room = body->room ? 2 * body->room : 8;
    body->ops = realloc(body->ops, body->room * sizeof op);
  }
  body->ops[body->count++] = op;
}

CUresult submit(CUstream given, struct op op) {
  struct stream *stream = stream_of(given);
  CUresult code = CUDA_SUCCESS;
  if (!stream) code = CUDA_ERROR_INVALID_HANDLE;
  else if (stream->capture && stream->capture->invalid) code = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  else if (stream->capture && (op.kind == OP_FREE || op.kind == OP_CALLBACK || op.kind == OP_GRAPH)) {
    captures_invalidate(stream);
    code = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  } else if (stream == null_stream && capture_forbids()) code = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  if (code) {
    free(op.owned);
    if (op.body) body_drop(op.body);
    return code;
  }
  if (stream->capture) {
    stream->unjoined = stream != stream->capture->origin;
    record(stream->capture->body, op);
    return code;
  }
  if (stream == null_stream) {
    for (size_t index = 0; index < stream_count; index++)
      if (!(streams[index]->flags & CU_STREAM_NON_BLOCKING)) follow(stream, streams[index]);
  } else if (!(stream->flags & CU_STREAM_NON_BLOCKING)) follow(stream, null_stream);
  enqueue(stream, op);
  return code;
}

/* ------------------------------------------------------------------------------------------ streams */

static struct stream *make(unsigned flags, int priority) {
  static unsigned long long ids;
  if (stream_count == sizeof streams / sizeof *streams) return NULL;
  struct stream *stream = calloc(1, sizeof *stream);
  pthread_t thread;
  stream->context = current_context();
  stream->flags = flags;
  stream->priority = priority;
  stream->id = ++ids;
  pthread_cond_init(&stream->work, NULL);
  if (pthread_create(&thread, NULL, worker, stream)) return NULL;
  pthread_detach(thread);
  streams[stream_count++] = stream;
  return stream;
}

/* 0 and 1 are the legacy default stream, 2 the thread's own, which is one for all threads here. */
struct stream *stream_of(CUstream given) {
  uintptr_t number = (uintptr_t)given;
  if (number > 2) return handle_find(given, STREAM);
  struct stream **special = number == 2 ? &thread_stream : &null_stream;
  if (!*special || (*special)->context != current_context()) *special = make(0, 0);
  return *special;
}

/* Let go of a capture that ends; tell whether one of its streams had not been joined to its origin. */
bool streams_leave(struct capture *capture) {
  bool unjoined = false;
  for (size_t index = 0; index < stream_count; index++) {
    if (streams[index]->capture != capture) continue;
    unjoined |= streams[index] != capture->origin && streams[index]->unjoined;
    streams[index]->capture = NULL;
    streams[index]->unjoined = false;
  }
  return unjoined;
}

API CUresult cuStreamCreateWithPriority(CUstream *out, unsigned int flags, int priority) {
  ENTER(NEEDS_CONTEXT);
  FAIL_IF(flags > 1, CUDA_ERROR_INVALID_VALUE);
  struct stream *stream = make(flags, priority);
  FAIL_IF(!stream, CUDA_ERROR_OUT_OF_MEMORY);
  handle_add(&stream->handle, STREAM);
  *out = (CUstream)stream;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuStreamCreate(CUstream *out, unsigned int flags) {
  ENTER(NEEDS_CONTEXT);
  FAIL_IF(flags > 1, CUDA_ERROR_INVALID_VALUE);
  struct stream *stream = make(flags, 0);
  FAIL_IF(!stream, CUDA_ERROR_OUT_OF_MEMORY);
  handle_add(&stream->handle, STREAM);
  *out = (CUstream)stream;
  LEAVE(CUDA_SUCCESS);
}

/* It returns at once; the stream's work is still done. */
API CUresult cuStreamDestroy_v2(CUstream given) {
  ENTER(NEEDS_CONTEXT);
  struct stream *stream = handle_find(given, STREAM);
  FAIL_IF(!stream, CUDA_ERROR_INVALID_HANDLE);
  if (stream->capture) capture_abandon(stream);
  handle_remove(&stream->handle);
  stream->closing = true;
  pthread_cond_signal(&stream->work);
  LEAVE(CUDA_SUCCESS);
}

/* What may not be asked of a stream that is being captured ends its capture. */
#define REFUSE_CAPTURING(stream)                                                                                       \
  FAIL_IF(!(stream), CUDA_ERROR_INVALID_HANDLE);                                                                       \
  if ((stream)->capture) {                                                                                             \
    captures_invalidate(stream);                                                                                       \
    LEAVE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);                                                                      \
  }

API CUresult cuStreamSynchronize(CUstream given) {
  ENTER(NEEDS_CONTEXT);
  struct stream *stream = stream_of(given);
  REFUSE_CAPTURING(stream);
  FAIL_IF(capture_forbids(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  wait_for_stream(stream, stream->queued);
  LEAVE(stream->context->broken);
}

API CUresult cuStreamQuery(CUstream given) {
  ENTER(NEEDS_CONTEXT);
  struct stream *stream = stream_of(given);
  REFUSE_CAPTURING(stream);
  FAIL_IF(capture_forbids(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  LEAVE(stream->done < stream->queued ? CUDA_ERROR_NOT_READY : stream->context->broken);
}

#define ENTER_STREAM(given)                                                                                            \
  ENTER(NEEDS_CONTEXT);                                                                                                \
  struct stream *stream = stream_of(given);                                                                            \
  FAIL_IF(!stream, CUDA_ERROR_INVALID_HANDLE)

API CUresult cuStreamGetFlags(CUstream given, unsigned int *flags) {
  ENTER_STREAM(given);
  *flags = stream->flags;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuStreamGetPriority(CUstream given, int *priority) {
  ENTER_STREAM(given);
  *priority = stream->priority;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuStreamGetId(CUstream given, unsigned long long *id) {
  ENTER_STREAM(given);
  *id = stream->id;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuStreamGetDevice(CUstream given, CUdevice *device) {
  ENTER_STREAM(given);
  *device = 0;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuStreamGetCtx(CUstream given, CUcontext *context) {
  ENTER_STREAM(given);
  *context = (CUcontext)stream->context;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuStreamGetCtx_v2(CUstream given, CUcontext *context, CUgreenCtx *green) {
  ENTER_STREAM(given);
  *context = (CUcontext)stream->context;
  if (green) *green = NULL;
  LEAVE(CUDA_SUCCESS);
}

/* Wait until no stream has anything to do. */
API void emulated_finish(void) {
  pthread_mutex_lock(&big_lock);
  wait_for_all();
  pthread_mutex_unlock(&big_lock);
}
