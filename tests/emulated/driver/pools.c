/* Memory pools, as far as stream-ordered allocation needs them. */
#include "emulated.h"
#include <stdlib.h>

static struct pool default_pools[PLACES];

static CUmemoryPool default_pool(enum place place) {
  struct pool *pool = &default_pools[place];
  if (!pool->handle.live) {
    pool->place = place;
    handle_add(&pool->handle, POOL);
  }
  return (CUmemoryPool)pool;
}

#define POOL_OF(location) ((int)(location)->type == 1 ? DEVICE : PINNED)

API CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device) {
  ENTER(FREE_CALL);
  FAIL_IF(device, CUDA_ERROR_INVALID_DEVICE);
  *pool = default_pool(DEVICE);
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice device) {
  ENTER(FREE_CALL);
  FAIL_IF(device, CUDA_ERROR_INVALID_DEVICE);
  *pool = default_pool(DEVICE);
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuMemPoolCreate(CUmemoryPool *out, const CUmemPoolProps *props) {
  ENTER(NEEDS_CONTEXT);
  struct pool *pool = calloc(1, sizeof *pool);
  pool->place = POOL_OF(&props->location);
  handle_add(&pool->handle, POOL);
  *out = (CUmemoryPool)pool;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuMemPoolDestroy(CUmemoryPool pool) {
  ENTER(NEEDS_CONTEXT);
  struct pool *found = handle_find(pool, POOL);
  FAIL_IF(!found, CUDA_ERROR_INVALID_VALUE);
  handle_remove(&found->handle);
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value) {
  ENTER(FREE_CALL);
  LEAVE(handle_find(pool, POOL) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

/* 1 to 3 are reuse policies; the others are bytes, of which the used ones are 7 and 8. */
API CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value) {
  ENTER(FREE_CALL);
  struct pool *found = handle_find(pool, POOL);
  FAIL_IF(!found, CUDA_ERROR_INVALID_VALUE);
  if ((int)attribute <= 3) *(int *)value = 1;
  else *(cuuint64_t *)value = (int)attribute == 7 ? found->used : 0;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count) {
  ENTER(FREE_CALL);
  LEAVE(handle_find(pool, POOL) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

API CUresult cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool pool, CUmemLocation *location) {
  ENTER(FREE_CALL);
  FAIL_IF(!handle_find(pool, POOL), CUDA_ERROR_INVALID_VALUE);
  *flags = 3;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t keep) {
  ENTER(FREE_CALL);
  LEAVE(handle_find(pool, POOL) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

/* Allocation is in stream order; with addresses that are never given out twice it may be done at once. */
API CUresult cuMemAllocFromPoolAsync(CUdeviceptr *out, size_t bytes, CUmemoryPool pool, CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  struct pool *found = handle_find(pool, POOL);
  struct stream *on = stream_of(stream);
  FAIL_IF(!found, CUDA_ERROR_INVALID_VALUE);
  FAIL_IF(!on, CUDA_ERROR_INVALID_HANDLE);
  FAIL_IF(on->capture, CUDA_ERROR_NOT_SUPPORTED);
  LEAVE(memory_take(found->place, bytes, 0, found, out));
}

API CUresult cuMemAllocAsync(CUdeviceptr *out, size_t bytes, CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  struct stream *on = stream_of(stream);
  FAIL_IF(!on, CUDA_ERROR_INVALID_HANDLE);
  FAIL_IF(on->capture, CUDA_ERROR_NOT_SUPPORTED);
  LEAVE(memory_take(DEVICE, bytes, 0, (struct pool *)default_pool(DEVICE), out));
}

API CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
  ENTER(NEEDS_CONTEXT);
  FAIL_IF(!reach(address, 1), CUDA_ERROR_INVALID_VALUE);
  LEAVE(submit(stream, (struct op){.kind = OP_FREE, .target = address}));
}

