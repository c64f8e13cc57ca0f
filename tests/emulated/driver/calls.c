/* Entering and leaving a call: counts, planted faults, and what is refused everywhere. */
#include "emulated.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

pthread_mutex_t big_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
bool initialised;
__thread bool in_host_function;
static struct site *sites;

static struct fault {
  char name[64];
  long nth;
  CUresult code;
  struct fault *next;
} *faults;

const char *setting(const char *name) { return getenv(name); }

long long setting_number(const char *name, long long fallback) {
  const char *text = getenv(name);
  return text && *text ? atoll(text) : fallback;
}

long long now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* `cuMemAlloc` for `cuMemAlloc_v2`. */
static bool same_call(const char *name, const char *asked) {
  size_t length = strlen(asked);
  if (strncmp(name, asked, length)) return false;
  return !name[length] || (name[length] == '_' && name[length + 1] == 'v');
}

static CUresult planted(const char *name) {
  for (struct fault **at = &faults; *at; at = &(*at)->next) {
    struct fault *fault = *at;
    if (!same_call(name, fault->name) || --fault->nth > 0) continue;
    CUresult code = fault->code;
    *at = fault->next;
    free(fault);
    return code;
  }
  return CUDA_SUCCESS;
}

CUresult enter(struct site *site, unsigned rules) {
  pthread_mutex_lock(&big_lock);
  site->count++;
  if (!site->listed) {
    site->listed = true;
    site->next = sites;
    sites = site;
  }
  CUresult code = planted(site->name);
  if (code) return leave(code);
  if (in_host_function) return leave(CUDA_ERROR_NOT_PERMITTED);
  if (!(rules & NEEDS_CONTEXT)) return CUDA_SUCCESS;
  if (!initialised) return leave(CUDA_ERROR_NOT_INITIALIZED);
  struct context *context = current_context();
  if (!context) return leave(CUDA_ERROR_INVALID_CONTEXT);
  if (!context->handle.live) return leave(CUDA_ERROR_CONTEXT_IS_DESTROYED);
  if (context->broken) return leave(context->broken);
  if ((rules & UNSAFE_IN_CAPTURE) && capture_forbids()) return leave(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  return CUDA_SUCCESS;
}

CUresult leave(CUresult code) {
  pthread_mutex_unlock(&big_lock);
  return code;
}

/* ------------------------------------------------------------------------------------------ for tests */

/* Let the `nth` call of NAME from here on (1 is the next) return `code` and do nothing. */
API void emulated_fail_call(const char *name, long nth, int code) {
  struct fault *fault = calloc(1, sizeof *fault);
  strncpy(fault->name, name, sizeof fault->name - 1);
  fault->nth = nth;
  fault->code = code;
  pthread_mutex_lock(&big_lock);
  fault->next = faults;
  faults = fault;
  pthread_mutex_unlock(&big_lock);
}

/* Take back the faults that were not met; return how many. */
API long emulated_clear_faults(void) {
  long count = 0;
  pthread_mutex_lock(&big_lock);
  while (faults) {
    struct fault *next = faults->next;
    free(faults);
    faults = next;
    count++;
  }
  pthread_mutex_unlock(&big_lock);
  return count;
}

API long emulated_calls(const char *name) {
  long count = 0;
  pthread_mutex_lock(&big_lock);
  for (struct site *site = sites; site; site = site->next)
    if (same_call(site->name, name)) count += site->count;
  pthread_mutex_unlock(&big_lock);
  return count;
}

/* Write the names of all calls so far, one a line; return how many bytes that takes. */
API size_t emulated_called(char *text, size_t room) {
  size_t used = 0;
  pthread_mutex_lock(&big_lock);
  for (struct site *site = sites; site; site = site->next) {
    size_t length = strlen(site->name);
    if (used + length + 2 <= room) {
      memcpy(text + used, site->name, length);
      text[used + length] = '\n';
      text[used + length + 1] = 0;
    }
    used += length + 1;
  }
  pthread_mutex_unlock(&big_lock);
  return used + 1;
}
