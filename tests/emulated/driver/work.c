/* What streams are given: copies, fills, functions of the host, and work that stands for kernels. */
#include "emulated.h"
#include <stdlib.h>

static bool pageable(unsigned long long address) { return !is_arena(address); }

/* With the lock held. From pageable memory the real driver takes its own copy before it returns, to pageable memory
   it returns when the copy is done; only pinned memory is asynchronous. */
static CUresult copy(unsigned long long target, unsigned long long source, size_t bytes, CUstream given, bool wait) {
  struct stream *stream = stream_of(given);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (!bytes) return CUDA_SUCCESS;
  CUresult code = check_copy(target, source, bytes);
  if (code) return code;
  struct op op = {.kind = OP_COPY, .target = target, .source = source, .bytes = bytes};
  bool capturing = stream->capture;
  if (!capturing && pageable(source) && !pageable(target)) {
    op.owned = malloc(bytes);
    pthread_mutex_unlock(&big_lock);
    code = copy_pageable(op.owned, source, bytes);
    pthread_mutex_lock(&big_lock);
    if (code) {
      free(op.owned);
      return CUDA_ERROR_INVALID_VALUE;
    }
    op.source = (unsigned long long)op.owned;
  }
  code = submit(given, op);
  if (!code && !capturing && (wait || pageable(target))) {
    wait_for_stream(stream, stream->queued);
    code = stream->context->broken;
  }
  return code;
}

/* A call without a stream waits for the copy. */
#define COPIES(name, target_type, source_type)                                                                         \
  API CUresult name##_v2(target_type target, source_type source, size_t bytes) {                                       \
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);                                                                          \
    LEAVE(copy((unsigned long long)target, (unsigned long long)source, bytes, NULL, true));                            \
  }                                                                                                                    \
  API CUresult name##Async_v2(target_type target, source_type source, size_t bytes, CUstream stream) {                 \
    ENTER(NEEDS_CONTEXT);                                                                                              \
    LEAVE(copy((unsigned long long)target, (unsigned long long)source, bytes, stream, false));                         \
  }

COPIES(cuMemcpyHtoD, CUdeviceptr, const void *)
COPIES(cuMemcpyDtoH, void *, CUdeviceptr)
COPIES(cuMemcpyDtoD, CUdeviceptr, CUdeviceptr)

API CUresult cuMemcpy(CUdeviceptr target, CUdeviceptr source, size_t bytes) {
  ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
  LEAVE(copy(target, source, bytes, NULL, true));
}

API CUresult cuMemcpyAsync(CUdeviceptr target, CUdeviceptr source, size_t bytes, CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  LEAVE(copy(target, source, bytes, stream, false));
}

static CUresult fill(unsigned long long target, unsigned pattern, unsigned width, size_t count, CUstream stream) {
  if (!count) return CUDA_SUCCESS;
  if (!reach(target, count * width)) return CUDA_ERROR_INVALID_VALUE;
  struct op op = {.kind = OP_FILL, .target = target, .pattern = pattern, .width = width, .bytes = count * width};
  return submit(stream, op);
}

#define FILLS(bits, type)                                                                                              \
  API CUresult cuMemsetD##bits##_v2(CUdeviceptr target, type value, size_t count) {                                    \
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);                                                                          \
    CUresult code = fill(target, value, bits / 8, count, NULL);                                                        \
    if (!code) wait_for_stream(stream_of(NULL), stream_of(NULL)->queued);                                              \
    LEAVE(code);                                                                                                       \
  }                                                                                                                    \
  API CUresult cuMemsetD##bits##Async(CUdeviceptr target, type value, size_t count, CUstream stream) {                 \
    ENTER(NEEDS_CONTEXT);                                                                                              \
    LEAVE(fill(target, value, bits / 8, count, stream));                                                               \
  }

FILLS(8, unsigned char)
FILLS(16, unsigned short)
FILLS(32, unsigned int)

API CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *data) {
  ENTER(NEEDS_CONTEXT);
  FAIL_IF(!function, CUDA_ERROR_INVALID_VALUE);
  LEAVE(submit(stream, (struct op){.kind = OP_HOST, .host = function, .data = data}));
}

API CUresult cuStreamAddCallback(CUstream stream, CUstreamCallback function, void *data, unsigned int flags) {
  ENTER(NEEDS_CONTEXT);
  FAIL_IF(!function || flags, CUDA_ERROR_INVALID_VALUE);
  LEAVE(submit(stream, (struct op){.kind = OP_CALLBACK, .callback = function, .data = data}));
}

/* ------------------------------------------------------------------------ for what stands for kernels */

/* Put `work(data)` on a stream; what it returns is the context's sticky error. */
API CUresult emulated_launch(CUstream stream, work_fn work, void *data) {
  ENTER(NEEDS_CONTEXT);
  LEAVE(submit(stream, (struct op){.kind = OP_WORK, .work = work, .data = data}));
}

/* Put work on a stream that takes so long and does nothing. */
API CUresult emulated_spin(CUstream stream, long long nanoseconds) {
  ENTER(NEEDS_CONTEXT);
  LEAVE(submit(stream, (struct op){.kind = OP_SPIN, .spin_ns = nanoseconds}));
}
