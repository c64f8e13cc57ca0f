/* Events: where a stream was, and when. */
#include "emulated.h"
#include <stdlib.h>

API CUresult cuEventCreate(CUevent *out, unsigned int flags) {
  ENTER(NEEDS_CONTEXT);
  FAIL_IF(flags & ~7u, CUDA_ERROR_INVALID_VALUE);
  struct event *event = calloc(1, sizeof *event);
  event->context = current_context();
  event->flags = flags;
  handle_add(&event->handle, EVENT);
  *out = (CUevent)event;
  LEAVE(CUDA_SUCCESS);
}

#define ENTER_EVENT(given, rules)                                                                                      \
  ENTER(NEEDS_CONTEXT | (rules));                                                                                      \
  struct event *event = handle_find(given, EVENT);                                                                     \
  FAIL_IF(!event, CUDA_ERROR_INVALID_HANDLE)

API CUresult cuEventDestroy_v2(CUevent given) {
  ENTER_EVENT(given, 0);
  handle_remove(&event->handle);
  LEAVE(CUDA_SUCCESS);
}

static bool passed(struct event *event) { return !event->stream || event->stream->done >= event->seq; }

static CUresult record(struct event *event, CUstream given, unsigned flags) {
  struct stream *stream = stream_of(given);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (!stream->capture || flags & CU_EVENT_RECORD_EXTERNAL) {
    event->captured = NULL;
    return submit(given, (struct op){.kind = OP_RECORD, .event = event});
  }
  if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  event->captured = stream->capture;
  event->captured_in = stream;
  /* Who waits for this event knows all that the stream has so far. */
  return CUDA_SUCCESS;
}

API CUresult cuEventRecord(CUevent given, CUstream stream) {
  ENTER_EVENT(given, 0);
  LEAVE(record(event, stream, 0));
}

API CUresult cuEventRecordWithFlags(CUevent given, CUstream stream, unsigned int flags) {
  ENTER_EVENT(given, 0);
  FAIL_IF(flags > 1, CUDA_ERROR_INVALID_VALUE);
  LEAVE(record(event, stream, flags));
}

API CUresult cuEventQuery(CUevent given) {
  ENTER_EVENT(given, UNSAFE_IN_CAPTURE);
  FAIL_IF(event->captured, CUDA_ERROR_CAPTURED_EVENT);
  LEAVE(passed(event) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY);
}

API CUresult cuEventSynchronize(CUevent given) {
  ENTER_EVENT(given, UNSAFE_IN_CAPTURE);
  FAIL_IF(event->captured, CUDA_ERROR_CAPTURED_EVENT);
  if (event->stream) wait_for_stream(event->stream, event->seq);
  LEAVE(event->context->broken);
}

static CUresult elapsed(float *ms, CUevent start, CUevent stop) {
  struct event *from = handle_find(start, EVENT), *to = handle_find(stop, EVENT);
  if (!from || !to || from->captured || to->captured) return CUDA_ERROR_INVALID_HANDLE;
  if ((from->flags | to->flags) & CU_EVENT_DISABLE_TIMING) return CUDA_ERROR_INVALID_HANDLE;
  if (!from->stream || !to->stream) return CUDA_ERROR_INVALID_HANDLE;
  if (!passed(from) || !passed(to)) return CUDA_ERROR_NOT_READY;
  *ms = (float)((double)(to->time_ns - from->time_ns) / 1e6);
  return CUDA_SUCCESS;
}

API CUresult cuEventElapsedTime_v2(float *ms, CUevent start, CUevent stop) {
  ENTER(NEEDS_CONTEXT);
  LEAVE(elapsed(ms, start, stop));
}

#undef cuEventElapsedTime
API CUresult cuEventElapsedTime(float *ms, CUevent start, CUevent stop) {
  ENTER(NEEDS_CONTEXT);
  LEAVE(elapsed(ms, start, stop));
}

/* A stream that waits for an event of a capture joins that capture. */
static CUresult wait_captured(struct stream *stream, struct event *event) {
  if (!event->captured_in->capture || event->captured_in->capture != event->captured) return CUDA_ERROR_CAPTURED_EVENT;
  if (stream->capture && stream->capture != event->captured) {
    captures_invalidate(stream);
    return CUDA_ERROR_STREAM_CAPTURE_MERGE;
  }
  if (!stream->capture) {
    stream->capture = event->captured;
    stream->unjoined = true;
  }
  if (stream != event->captured_in) event->captured_in->unjoined = false;
  return CUDA_SUCCESS;
}

API CUresult cuStreamWaitEvent(CUstream given, CUevent waited, unsigned int flags) {
  ENTER_EVENT(waited, 0);
  struct stream *stream = stream_of(given);
  FAIL_IF(!stream, CUDA_ERROR_INVALID_HANDLE);
  FAIL_IF(flags > 1, CUDA_ERROR_INVALID_VALUE);
  FAIL_IF(event->captured, wait_captured(stream, event));
  if (stream->capture && !(flags & CU_EVENT_WAIT_EXTERNAL)) {
    captures_invalidate(stream);
    LEAVE(CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
  }
  FAIL_IF(!event->stream, CUDA_SUCCESS);
  LEAVE(submit(given, (struct op){.kind = OP_WAIT, .stream = event->stream, .seq = event->seq}));
}
