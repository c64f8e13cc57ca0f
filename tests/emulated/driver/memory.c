/* Device and pinned memory.

   Device addresses lie in a range that nobody can read, so that using one on the host ends the process as it does
   on a real machine; what they mean is kept beside. No address is given out twice, so each use of freed memory
   is known. Pinned addresses are the host's own, and unreadable once freed. */
#define _GNU_SOURCE
#include "emulated.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define ALIGN 512ULL
#define PAGE 4096ULL

struct block {
  unsigned long long address;
  size_t bytes, room;
  unsigned flags;
  unsigned char *shadow;
  struct pool *pool;
};
static struct range {
  unsigned long long start, next, end;
  struct block *blocks;
  size_t count, room, live, lost, peak;
} ranges[PLACES];

size_t memory_total(void) { return (size_t)setting_number("EMULATED_MEMORY_MIB", 1024) << 20; }

static bool reserve(struct range *range) {
  for (unsigned long long size = 1ULL << 42; !range->start && size >= 1ULL << 32; size >>= 2) {
    void *at = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) continue;
    range->start = range->next = (unsigned long long)at;
    range->end = range->start + size;
  }
  return range->start;
}

/* The place of the last live block that begins at or below an address; -1 for none. */
static long place_of(struct range *range, unsigned long long address) {
  long low = 0, high = (long)range->count;
  while (low < high) {
    long middle = (low + high) / 2;
    if (range->blocks[middle].address <= address) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

static struct block *find(struct range *range, unsigned long long address, size_t bytes) {
  long place = place_of(range, address);
  if (place < 0) return NULL;
  struct block *block = &range->blocks[place];
  unsigned long long offset = address - block->address;
  return offset < block->bytes && bytes <= block->bytes - offset ? block : NULL;
}

static bool within(struct range *range, unsigned long long address) {
  return address >= range->start && address < range->end;
}
bool is_device(unsigned long long address) { return within(&ranges[DEVICE], address); }
bool is_pinned(unsigned long long address) { return within(&ranges[PINNED], address); }
bool is_arena(unsigned long long address) { return is_device(address) || is_pinned(address); }

void *reach(unsigned long long address, size_t bytes) {
  if (is_pinned(address)) return find(&ranges[PINNED], address, bytes) ? (void *)address : NULL;
  struct block *block = is_device(address) ? find(&ranges[DEVICE], address, bytes) : NULL;
  return block ? block->shadow + (address - block->address) : NULL;
}

/* New memory holds 0xA5, so that what was never written is seen. */
CUresult memory_take(enum place place, size_t bytes, unsigned flags, struct pool *pool, unsigned long long *out) {
  struct range *range = &ranges[place];
  if (!bytes || !out) return CUDA_ERROR_INVALID_VALUE;
  size_t limit = place == DEVICE ? memory_total() : (size_t)setting_number("EMULATED_PINNED_MIB", 1024) << 20;
  if (bytes > limit || range->live > limit - bytes || !reserve(range)) return CUDA_ERROR_OUT_OF_MEMORY;
  size_t room = (bytes + PAGE - 1) / PAGE * PAGE;
  if (range->next + room + PAGE > range->end) return CUDA_ERROR_OUT_OF_MEMORY;
  struct block block = {.address = range->next, .bytes = bytes, .room = room, .flags = flags, .pool = pool};
  if (place == PINNED) {
    if (mprotect((void *)block.address, room, PROT_READ | PROT_WRITE)) return CUDA_ERROR_OUT_OF_MEMORY;
    block.shadow = (unsigned char *)block.address;
  } else {
    block.shadow = malloc(bytes);
    if (!block.shadow) return CUDA_ERROR_OUT_OF_MEMORY;
  }
  memset(block.shadow, 0xA5, bytes);
  if (range->count == range->room) {
    range->room = range->room ? 2 * range->room : 64;
    range->blocks = realloc(range->blocks, range->room * sizeof block);
  }
  range->blocks[range->count++] = block;
  /* A page between two blocks catches who writes past the end of pinned memory. */
  range->next += room + PAGE;
  range->live += bytes;
  if (range->live > range->peak) range->peak = range->live;
  if (pool) pool->used += bytes;
  *out = block.address;
  return CUDA_SUCCESS;
}

static CUresult give(enum place place, unsigned long long address) {
  struct range *range = &ranges[place];
  long at = place_of(range, address);
  if (at < 0 || range->blocks[at].address != address) return CUDA_ERROR_INVALID_VALUE;
  struct block block = range->blocks[at];
  memset(block.shadow, 0xDE, block.bytes);
  if (place == PINNED)
    mmap((void *)block.address, block.room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  else free(block.shadow);
  memmove(&range->blocks[at], &range->blocks[at + 1], (range->count - (size_t)at - 1) * sizeof block);
  range->count--;
  range->live -= block.bytes;
  if (block.pool) block.pool->used -= block.bytes;
  return CUDA_SUCCESS;
}

CUresult memory_free_device(unsigned long long address) {
  return is_pinned(address) ? give(PINNED, address) : give(DEVICE, address);
}

/* What the context still held when it went. */
void memory_lose_all(void) {
  for (int place = 0; place < PLACES; place++)
    while (ranges[place].count) {
      struct block *last = &ranges[place].blocks[ranges[place].count - 1];
      ranges[place].lost += last->bytes;
      give(place, last->address);
    }
}

API CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
  ENTER(NEEDS_CONTEXT);
  *total = memory_total();
  *free_bytes = *total - ranges[DEVICE].live;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuMemAlloc_v2(CUdeviceptr *out, size_t bytes) {
  ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
  LEAVE(memory_take(DEVICE, bytes, 0, NULL, out));
}

/* As the real one it waits for the device's work. */
API CUresult cuMemFree_v2(CUdeviceptr address) {
  ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
  FAIL_IF(!address, CUDA_SUCCESS);
  FAIL_IF(!is_device(address), CUDA_ERROR_INVALID_VALUE);
  wait_for_all();
  FAIL_IF(current_context()->broken, current_context()->broken);
  LEAVE(give(DEVICE, address));
}

API CUresult cuMemHostAlloc(void **out, size_t bytes, unsigned int flags) {
  ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
  FAIL_IF(flags & ~7u, CUDA_ERROR_INVALID_VALUE);
  unsigned long long address = 0;
  CUresult code = memory_take(PINNED, bytes, flags, NULL, &address);
  if (!code) *out = (void *)address;
  LEAVE(code);
}

API CUresult cuMemAllocHost_v2(void **out, size_t bytes) {
  ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
  unsigned long long address = 0;
  CUresult code = memory_take(PINNED, bytes, 0, NULL, &address);
  if (!code) *out = (void *)address;
  LEAVE(code);
}

API CUresult cuMemFreeHost(void *pointer) {
  ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
  FAIL_IF(!is_pinned((unsigned long long)pointer), CUDA_ERROR_INVALID_VALUE);
  wait_for_all();
  FAIL_IF(current_context()->broken, current_context()->broken);
  LEAVE(give(PINNED, (unsigned long long)pointer));
}

/* With unified addresses, as on every device since 2010, all pinned memory is mapped, at its own address. */
API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *out, void *pointer, unsigned int flags) {
  ENTER(NEEDS_CONTEXT);
  FAIL_IF(flags || !find(&ranges[PINNED], (unsigned long long)pointer, 1), CUDA_ERROR_INVALID_VALUE);
  *out = (CUdeviceptr)(uintptr_t)pointer;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuMemHostGetFlags(unsigned int *flags, void *pointer) {
  ENTER(NEEDS_CONTEXT);
  struct block *block = find(&ranges[PINNED], (unsigned long long)pointer, 1);
  FAIL_IF(!block, CUDA_ERROR_INVALID_VALUE);
  *flags = block->flags | 2;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *bytes, CUdeviceptr address) {
  ENTER(NEEDS_CONTEXT);
  struct block *block = find(&ranges[DEVICE], address, 1);
  if (!block) block = find(&ranges[PINNED], address, 1);
  FAIL_IF(!block, CUDA_ERROR_NOT_FOUND);
  if (base) *base = block->address;
  if (bytes) *bytes = block->bytes;
  LEAVE(CUDA_SUCCESS);
}

/* 1 context, 2 memory type, 3 device pointer, 4 host pointer, 6 sync, 7 buffer id, 8 managed, 9 ordinal, 11.. range. */
static bool attribute_of(void *data, int attribute, CUdeviceptr address) {
  struct block *device = find(&ranges[DEVICE], address, 1), *pinned = find(&ranges[PINNED], address, 1);
  struct block *block = device ? device : pinned;
  switch (attribute) {
  case 1: *(void **)data = block ? current_context() : NULL; break;
  case 2: *(unsigned *)data = device ? 2 : pinned ? 1 : 0; break;
  case 3: *(CUdeviceptr *)data = block ? address : 0; break;
  case 4: *(void **)data = pinned ? (void *)(uintptr_t)address : NULL; break;
  case 6: *(unsigned *)data = 0; break;
  case 7: *(unsigned long long *)data = block ? block->address : 0; break;
  case 8: *(unsigned *)data = 0; break;
  case 9: *(int *)data = block ? 0 : -2; break;
  case 11: *(CUdeviceptr *)data = block ? block->address : 0; break;
  case 12: *(size_t *)data = block ? block->bytes : 0; break;
  case 13: *(unsigned *)data = block != NULL; break;
  default: return false;
  }
  return true;
}

API CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr address) {
  ENTER(NEEDS_CONTEXT);
  FAIL_IF(!find(&ranges[DEVICE], address, 1) && !find(&ranges[PINNED], address, 1), CUDA_ERROR_INVALID_VALUE);
  LEAVE(attribute_of(data, (int)attribute, address) ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED);
}

API CUresult cuPointerGetAttributes(unsigned int count, CUpointer_attribute *which, void **data, CUdeviceptr address) {
  ENTER(NEEDS_CONTEXT);
  for (unsigned index = 0; index < count; index++)
    FAIL_IF(!attribute_of(data[index], (int)which[index], address), CUDA_ERROR_NOT_SUPPORTED);
  LEAVE(CUDA_SUCCESS);
}

/* ------------------------------------------------------------------------------------------ copies */

CUresult check_copy(unsigned long long target, unsigned long long source, size_t bytes) {
  for (int side = 0; side < 2; side++) {
    unsigned long long address = side ? source : target;
    if (!address || (is_arena(address) && !reach(address, bytes))) return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

/* Without the lock. Pageable memory is reached through the kernel, which says where it is not there. */
CUresult copy_now(unsigned long long target, unsigned long long source, size_t bytes) {
  pthread_mutex_lock(&big_lock);
  bool from_us = is_arena(source), to_us = is_arena(target);
  void *from = from_us ? reach(source, bytes) : (void *)source;
  void *to = to_us ? reach(target, bytes) : (void *)target;
  pthread_mutex_unlock(&big_lock);
  if (!from || !to) return CUDA_ERROR_ILLEGAL_ADDRESS;
  if (from_us && to_us) {
    memmove(to, from, bytes);
    return CUDA_SUCCESS;
  }
  struct iovec local = {from_us ? from : to, bytes}, remote = {from_us ? to : from, bytes};
  ssize_t moved = from_us ? process_vm_writev(getpid(), &local, 1, &remote, 1, 0)
                          : process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
  if (moved < 0 && errno != EFAULT) { /* where the kernel forbids it */
    memmove(to, from, bytes);
    return CUDA_SUCCESS;
  }
  return moved == (ssize_t)bytes ? CUDA_SUCCESS : CUDA_ERROR_ILLEGAL_ADDRESS;
}

/* Copy from anywhere in the process; a page that is not there is no crash. */
CUresult copy_pageable(void *target, unsigned long long source, size_t bytes) {
  struct iovec local = {target, bytes}, remote = {(void *)source, bytes};
  ssize_t moved = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
  if (moved < 0 && errno != EFAULT) {
    memcpy(target, (void *)source, bytes);
    return CUDA_SUCCESS;
  }
  return moved == (ssize_t)bytes ? CUDA_SUCCESS : CUDA_ERROR_ILLEGAL_ADDRESS;
}

/* --------------------------------------------------------------------------------------- for tests */

/* Bytes: 0 live device, 1 live pinned, 2 and 3 lost when their context went, 4 and 5 the most that lived. */
API size_t emulated_bytes(int what) {
  pthread_mutex_lock(&big_lock);
  struct range *range = &ranges[what % PLACES];
  size_t bytes = what < 2 ? range->live : what < 4 ? range->lost : range->peak;
  pthread_mutex_unlock(&big_lock);
  return bytes;
}

/* Where the host finds what a device address means; NULL where it is not live. */
API void *emulated_reach(unsigned long long address, size_t bytes) {
  pthread_mutex_lock(&big_lock);
  void *found = reach(address, bytes);
  pthread_mutex_unlock(&big_lock);
  return found;
}
