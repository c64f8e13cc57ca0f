/* Capture of streams, and graphs. */
#include "emulated.h"
#include <stdlib.h>
#include <string.h>

static struct capture *captures; /* those under way */
static __thread CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

struct graph {
  struct handle handle;
  struct body *body;
};

struct body *body_new(void) {
  struct body *body = calloc(1, sizeof *body);
  body->references = 1;
  return body;
}

void body_keep(struct body *body) { body->references++; }

void body_drop(struct body *body) {
  if (--body->references) return;
  for (size_t index = 0; index < body->kept_count; index++) user_object_release(body->kept[index], 1);
  for (size_t index = 0; index < body->count; index++) free(body->ops[index].owned);
  free(body->kept);
  free(body->ops);
  free(body);
}

static CUresult graph_new(enum kind kind, struct body *body, void *out) {
  struct graph *graph = calloc(1, sizeof *graph);
  graph->body = body;
  handle_add(&graph->handle, kind);
  *(struct graph **)out = graph;
  return CUDA_SUCCESS;
}

static CUresult graph_end(const void *given, enum kind kind) {
  struct graph *graph = handle_find(given, kind);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  handle_remove(&graph->handle);
  body_drop(graph->body);
  return CUDA_SUCCESS;
}

/* Whether this thread may not do what could end a capture: see cuThreadExchangeStreamCaptureMode. */
bool capture_forbids(void) {
  bool forbidden = false;
  if (thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return false;
  for (struct capture *capture = captures; capture; capture = capture->next) {
    bool mine = pthread_equal(capture->thread, pthread_self());
    bool counts = capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL
                      ? thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL || mine
                      : capture->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && mine;
    if (!counts || capture->invalid) continue;
    capture->invalid = true;
    forbidden = true;
  }
  return forbidden;
}

void captures_invalidate(struct stream *stream) {
  if (stream->capture) stream->capture->invalid = true;
}

API CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
  ENTER(FREE_CALL);
  FAIL_IF((int)*mode < 0 || (int)*mode > 2, CUDA_ERROR_INVALID_VALUE);
  CUstreamCaptureMode before = thread_mode;
  thread_mode = *mode;
  *mode = before;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuStreamBeginCapture_v2(CUstream given, CUstreamCaptureMode mode) {
  static unsigned long long ids;
  ENTER(NEEDS_CONTEXT);
  struct stream *stream = stream_of(given);
  FAIL_IF(!stream, CUDA_ERROR_INVALID_HANDLE);
  FAIL_IF((uintptr_t)given < 2, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  FAIL_IF((int)mode < 0 || (int)mode > 2, CUDA_ERROR_INVALID_VALUE);
  FAIL_IF(stream->capture, CUDA_ERROR_ILLEGAL_STATE);
  struct capture *capture = calloc(1, sizeof *capture);
  capture->body = body_new();
  graph_new(GRAPH, capture->body, &capture->graph);
  capture->origin = stream;
  capture->mode = mode;
  capture->thread = pthread_self();
  capture->id = ++ids;
  capture->next = captures;
  captures = capture;
  stream->capture = capture;
  LEAVE(CUDA_SUCCESS);
}

/* Let each stream of the capture go; tell whether one had not been joined. */
static bool captures_end(struct capture *capture) {
  for (struct capture **at = &captures; *at; at = &(*at)->next)
    if (*at == capture) {
      *at = capture->next;
      break;
    }
  return streams_leave(capture);
}

/* A stream that goes takes its capture with it, and what others have forked from it can't be ended any more. */
void capture_abandon(struct stream *stream) {
  struct capture *capture = stream->capture;
  captures_invalidate(stream);
  if (!capture || capture->origin != stream) return;
  captures_end(capture);
  graph_end(capture->graph, GRAPH);
}

API CUresult cuStreamEndCapture(CUstream given, CUgraph *out) {
  ENTER(NEEDS_CONTEXT);
  struct stream *stream = stream_of(given);
  FAIL_IF(!stream, CUDA_ERROR_INVALID_HANDLE);
  if (out) *out = NULL;
  struct capture *capture = stream->capture;
  FAIL_IF(!capture, CUDA_ERROR_ILLEGAL_STATE);
  FAIL_IF(capture->origin != stream, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
  FAIL_IF(capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(capture->thread, pthread_self()),
          CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
  bool unjoined = captures_end(capture);
  if (capture->invalid || unjoined) {
    graph_end(capture->graph, GRAPH);
    LEAVE(capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
  }
  FAIL_IF(!handle_find(capture->graph, GRAPH), CUDA_ERROR_INVALID_VALUE);
  if (out) *out = capture->graph;
  LEAVE(CUDA_SUCCESS);
}

static CUstreamCaptureStatus status(struct stream *stream) {
  if (!stream->capture) return CU_STREAM_CAPTURE_STATUS_NONE;
  return stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

API CUresult cuStreamIsCapturing(CUstream given, CUstreamCaptureStatus *out) {
  ENTER(NEEDS_CONTEXT);
  struct stream *stream = stream_of(given);
  FAIL_IF(!stream, CUDA_ERROR_INVALID_HANDLE);
  *out = status(stream);
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuStreamGetCaptureInfo_v3(CUstream given, CUstreamCaptureStatus *out, cuuint64_t *id, CUgraph *graph,
                                       const CUgraphNode **dependencies, const CUgraphEdgeData **edges,
                                       size_t *count) {
  ENTER(NEEDS_CONTEXT);
  struct stream *stream = stream_of(given);
  FAIL_IF(!stream, CUDA_ERROR_INVALID_HANDLE);
  *out = status(stream);
  if (id && stream->capture) *id = stream->capture->id;
  if (graph) *graph = stream->capture ? stream->capture->graph : NULL;
  if (dependencies) *dependencies = NULL;
  if (edges) *edges = NULL;
  if (count) *count = 0;
  LEAVE(CUDA_SUCCESS);
}

/* ------------------------------------------------------------------------------------------ graphs */

API CUresult cuGraphCreate(CUgraph *out, unsigned int flags) {
  ENTER(FREE_CALL);
  FAIL_IF(flags, CUDA_ERROR_INVALID_VALUE);
  LEAVE(graph_new(GRAPH, body_new(), out));
}

API CUresult cuGraphDestroy(CUgraph given) {
  ENTER(FREE_CALL);
  LEAVE(graph_end(given, GRAPH));
}

API CUresult cuGraphExecDestroy(CUgraphExec given) {
  ENTER(FREE_CALL);
  LEAVE(graph_end(given, GRAPH_EXEC));
}

static void body_hold(struct body *body, struct user_object *object) {
  body->kept = realloc(body->kept, (body->kept_count + 1) * sizeof object);
  body->kept[body->kept_count++] = object;
}

/* What is instantiated has its own copy, and its own hold on what the graph keeps alive. */
static CUresult instantiate(CUgraphExec *out, CUgraph given) {
  struct graph *graph = handle_find(given, GRAPH);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  struct body *from = graph->body, *body = body_new();
  body->count = body->room = from->count;
  body->ops = malloc((from->count + 1) * sizeof *body->ops);
  memcpy(body->ops, from->ops, from->count * sizeof *body->ops);
  for (size_t index = 0; index < from->kept_count; index++) {
    from->kept[index]->references++;
    body_hold(body, from->kept[index]);
  }
  return graph_new(GRAPH_EXEC, body, out);
}

API CUresult cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph given, unsigned long long flags) {
  ENTER(NEEDS_CONTEXT);
  LEAVE(instantiate(out, given));
}

API CUresult cuGraphInstantiateWithParams(CUgraphExec *out, CUgraph given, CUDA_GRAPH_INSTANTIATE_PARAMS *params) {
  ENTER(NEEDS_CONTEXT);
  CUresult code = instantiate(out, given);
  params->hErrNode_out = NULL;
  params->result_out = code ? 1 : 0;
  LEAVE(code);
}

API CUresult cuGraphUpload(CUgraphExec given, CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  FAIL_IF(!handle_find(given, GRAPH_EXEC), CUDA_ERROR_INVALID_VALUE);
  FAIL_IF(!stream_of(stream), CUDA_ERROR_INVALID_HANDLE);
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuGraphLaunch(CUgraphExec given, CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  struct graph *graph = handle_find(given, GRAPH_EXEC);
  FAIL_IF(!graph, CUDA_ERROR_INVALID_VALUE);
  body_keep(graph->body);
  LEAVE(submit(stream, (struct op){.kind = OP_GRAPH, .body = graph->body}));
}

API CUresult cuGraphGetNodes(CUgraph given, CUgraphNode *nodes, size_t *count) {
  ENTER(FREE_CALL);
  struct graph *graph = handle_find(given, GRAPH);
  FAIL_IF(!graph, CUDA_ERROR_INVALID_VALUE);
  for (size_t index = 0; nodes && index < *count; index++)
    nodes[index] = index < graph->body->count ? (CUgraphNode)&graph->body->ops[index] : NULL;
  if (!nodes || *count > graph->body->count) *count = graph->body->count;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuGraphNodeGetType(CUgraphNode node, CUgraphNodeType *type) {
  ENTER(FREE_CALL);
  switch (((struct op *)node)->kind) {
  case OP_COPY: *type = CU_GRAPH_NODE_TYPE_MEMCPY; break;
  case OP_FILL: *type = CU_GRAPH_NODE_TYPE_MEMSET; break;
  case OP_HOST: *type = CU_GRAPH_NODE_TYPE_HOST; break;
  case OP_RECORD: *type = CU_GRAPH_NODE_TYPE_EVENT_RECORD; break;
  default: *type = CU_GRAPH_NODE_TYPE_KERNEL;
  }
  LEAVE(CUDA_SUCCESS);
}

/* ------------------------------------------------------- what a graph keeps alive for who captured it */

API CUresult cuUserObjectCreate(CUuserObject *out, void *data, CUhostFn destroy, unsigned int references,
                                unsigned int flags) {
  ENTER(FREE_CALL);
  struct user_object *object = calloc(1, sizeof *object);
  object->data = data;
  object->destroy = destroy;
  object->references = references;
  handle_add(&object->handle, USER_OBJECT);
  *out = (CUuserObject)object;
  LEAVE(CUDA_SUCCESS);
}

static void *destroying(void *given) {
  struct user_object *object = given;
  object->destroy(object->data);
  return NULL;
}

/* The owner is told from a thread of its own: it may call back. */
void user_object_release(struct user_object *object, long count) {
  pthread_t thread;
  object->references -= count;
  if (object->references > 0) return;
  handle_remove(&object->handle);
  if (!pthread_create(&thread, NULL, destroying, object)) pthread_detach(thread);
}

API CUresult cuUserObjectRetain(CUuserObject given, unsigned int count) {
  ENTER(FREE_CALL);
  struct user_object *object = handle_find(given, USER_OBJECT);
  FAIL_IF(!object, CUDA_ERROR_INVALID_VALUE);
  object->references += count;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuUserObjectRelease(CUuserObject given, unsigned int count) {
  ENTER(FREE_CALL);
  struct user_object *object = handle_find(given, USER_OBJECT);
  FAIL_IF(!object, CUDA_ERROR_INVALID_VALUE);
  user_object_release(object, count);
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuGraphRetainUserObject(CUgraph given, CUuserObject object, unsigned int count, unsigned int flags) {
  ENTER(FREE_CALL);
  struct graph *graph = handle_find(given, GRAPH);
  struct user_object *kept = handle_find(object, USER_OBJECT);
  FAIL_IF(!graph || !kept, CUDA_ERROR_INVALID_VALUE);
  for (unsigned index = 0; index < count; index++) body_hold(graph->body, kept);
  if (!(flags & 1)) kept->references += count; /* 1: the caller's own references move to the graph */
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuGraphReleaseUserObject(CUgraph given, CUuserObject object, unsigned int count) {
  ENTER(FREE_CALL);
  struct graph *graph = handle_find(given, GRAPH);
  struct user_object *kept = handle_find(object, USER_OBJECT);
  FAIL_IF(!graph || !kept, CUDA_ERROR_INVALID_VALUE);
  struct body *body = graph->body;
  for (size_t index = body->kept_count; count && index-- > 0;)
    if (body->kept[index] == kept) {
      body->kept[index] = body->kept[--body->kept_count];
      user_object_release(kept, 1);
      count--;
    }
  LEAVE(count ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
}
