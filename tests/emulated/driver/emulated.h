/* What the parts of the software driver share. One lock guards all state; work itself runs without it. */
#ifndef EMULATED_H
#define EMULATED_H

#include "types.h"
#include <pthread.h>
#include <stdbool.h>

#define API __attribute__((visibility("default")))

/* ------------------------------------------------------------------------------------------- calls */

enum { FREE_CALL = 0, NEEDS_CONTEXT = 1, UNSAFE_IN_CAPTURE = 2, CLEANUP = 4 };

struct site {
  const char *name;
  long count;
  bool listed;
  struct site *next;
};

/* Count the call, give the planted fault, and refuse what no call may do here; returns with the lock held on success. */
CUresult enter(struct site *site, unsigned rules);
CUresult leave(CUresult code);

#define ENTER(rules)                                                                                                   \
  static struct site site = {.name = __func__};                                                                        \
  do {                                                                                                                 \
    CUresult refused = enter(&site, (rules));                                                                          \
    if (refused) return refused;                                                                                       \
  } while (0)
#define LEAVE(code) return leave(code)
#define FAIL_IF(condition, code)                                                                                       \
  do {                                                                                                                 \
    if (condition) return leave(code);                                                                                 \
  } while (0)

extern pthread_mutex_t big_lock;
extern pthread_cond_t changed;
extern bool initialised;
const char *setting(const char *name);
long long setting_number(const char *name, long long fallback);

/* ----------------------------------------------------------------------------------------- handles */

enum kind { CONTEXT = 1, STREAM, EVENT, GRAPH, GRAPH_EXEC, POOL, USER_OBJECT, KINDS };

/* Handles are never used twice, so a destroyed one is known as such. */
struct handle {
  enum kind kind;
  struct handle *next, *before;
  bool live;
};
void handle_add(struct handle *handle, enum kind kind);
void handle_remove(struct handle *handle);
void *handle_find(const void *given, enum kind kind);
extern long handle_count[KINDS];

struct context {
  struct handle handle;
  unsigned flags;
  long references;
  CUresult broken; /* the sticky error */
  unsigned long long id;
};
struct context *current_context(void);
void context_break(struct context *context, CUresult code);

/* ------------------------------------------------------------------------------------------- work */

enum op_kind { OP_COPY, OP_FILL, OP_HOST, OP_WORK, OP_SPIN, OP_RECORD, OP_WAIT, OP_GRAPH, OP_FREE, OP_CALLBACK };

struct stream;
struct event;
struct body;
typedef CUresult (*work_fn)(void *);

struct op {
  enum op_kind kind;
  unsigned long long target, source; /* addresses */
  size_t bytes;
  unsigned pattern, width;
  void *owned; /* a copy of pageable memory, given back after the work */
  CUhostFn host;
  work_fn work;
  CUstreamCallback callback;
  void *data;
  long long spin_ns;
  struct event *event;
  struct stream *stream;
  unsigned long long seq;
  struct body *body;
  struct op *next;
};

/* What a graph does, in the order of its capture; shared by a graph, what it was instantiated to, and launches. */
struct body {
  long references;
  size_t count, room;
  struct op *ops;
  struct user_object **kept;
  size_t kept_count;
};
struct body *body_new(void);
void body_keep(struct body *body);
void body_drop(struct body *body);

struct capture {
  struct body *body;
  CUgraph graph;
  struct stream *origin;
  CUstreamCaptureMode mode;
  pthread_t thread;
  bool invalid;
  unsigned long long id;
  struct capture *next;
};

struct stream {
  struct handle handle;
  struct context *context;
  unsigned flags;
  int priority;
  bool closing;
  unsigned long long id, queued, done;
  struct op *first, *last;
  pthread_cond_t work;
  struct capture *capture;
  bool unjoined; /* forked into another stream's capture, and not joined since */
};

struct event {
  struct handle handle;
  struct context *context;
  unsigned flags;
  struct stream *stream; /* where it was recorded last; NULL before */
  unsigned long long seq;
  long long time_ns;
  struct capture *captured;
  struct stream *captured_in;
};

struct user_object {
  struct handle handle;
  void *data;
  CUhostFn destroy;
  long references;
};

/* With the lock held. A capturing stream records the work, any other starts it. */
CUresult submit(CUstream stream, struct op op);
struct stream *stream_of(CUstream given);
void wait_for_stream(struct stream *stream, unsigned long long seq);
void wait_for_all(void);
void captures_invalidate(struct stream *stream);
void capture_abandon(struct stream *stream);
bool streams_leave(struct capture *capture);
bool capture_forbids(void);
void user_object_release(struct user_object *object, long count);
long long now_ns(void);

/* ------------------------------------------------------------------------------------------ memory */

/* Where the driver reaches `bytes` at an address that it gave out; NULL where that is not whole and live. */
enum place { DEVICE, PINNED, PLACES };
struct pool {
  struct handle handle;
  size_t used;
  enum place place;
};
CUresult memory_take(enum place place, size_t bytes, unsigned flags, struct pool *pool, unsigned long long *out);
void *reach(unsigned long long address, size_t bytes);
bool is_device(unsigned long long address);
bool is_pinned(unsigned long long address);
bool is_arena(unsigned long long address);
CUresult memory_free_device(unsigned long long address);
void memory_lose_all(void);
size_t memory_total(void);
CUresult check_copy(unsigned long long target, unsigned long long source, size_t bytes);
CUresult copy_pageable(void *target, unsigned long long source, size_t bytes);
CUresult copy_now(unsigned long long target, unsigned long long source, size_t bytes);

#endif
