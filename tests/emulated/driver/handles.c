/* Handles that are never used twice; how many of each kind live. */
#include "emulated.h"
#include <stdlib.h>

static struct handle *first[KINDS];
long handle_count[KINDS];

void handle_add(struct handle *handle, enum kind kind) {
  handle->kind = kind;
  handle->live = true;
  handle->next = first[kind];
  if (handle->next) handle->next->before = handle;
  first[kind] = handle;
  handle_count[kind]++;
}

/* The memory stays, so that no later handle has its address. */
void handle_remove(struct handle *handle) {
  if (handle->before) handle->before->next = handle->next;
  else first[handle->kind] = handle->next;
  if (handle->next) handle->next->before = handle->before;
  handle->next = handle->before = NULL;
  handle->live = false;
  handle_count[handle->kind]--;
}

void *handle_find(const void *given, enum kind kind) {
  for (struct handle *handle = first[kind]; handle; handle = handle->next)
    if (handle == given) return handle;
  return NULL;
}

/* 1 contexts, 2 streams, 3 events, 4 graphs, 5 executable graphs, 6 pools, 7 user objects. */
API long emulated_live(int kind) {
  pthread_mutex_lock(&big_lock);
  long count = kind > 0 && kind < KINDS ? handle_count[kind] : -1;
  pthread_mutex_unlock(&big_lock);
  return count;
}
