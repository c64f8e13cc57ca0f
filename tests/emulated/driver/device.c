/* The driver, its one device, and contexts. */
#include "emulated.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STACK 16
static struct context *primary;
static unsigned primary_flags;
static __thread struct context *stack[STACK];
static __thread int depth;

struct context *current_context(void) { return depth ? stack[depth - 1] : NULL; }

/* As on a real device, after an illegal address nothing works any more in the context. */
void context_break(struct context *context, CUresult code) {
  if (!context->broken) context->broken = code;
}

API CUresult cuInit(unsigned int flags) {
  ENTER(FREE_CALL);
  FAIL_IF(flags, CUDA_ERROR_INVALID_VALUE);
  int code = (int)setting_number("EMULATED_INIT_ERROR", 0);
  FAIL_IF(code, code);
  initialised = true;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuDriverGetVersion(int *version) {
  ENTER(FREE_CALL);
  *version = (int)setting_number("EMULATED_CUDA_VERSION", CUDA_VERSION);
  LEAVE(CUDA_SUCCESS);
}

#define ENTER_DEVICE(device)                                                                                           \
  ENTER(FREE_CALL);                                                                                                    \
  FAIL_IF(!initialised, CUDA_ERROR_NOT_INITIALIZED);                                                                   \
  FAIL_IF((device) != 0, CUDA_ERROR_INVALID_DEVICE)

API CUresult cuDeviceGetCount(int *count) {
  ENTER_DEVICE(0);
  *count = (int)setting_number("EMULATED_DEVICES", 1);
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  ENTER_DEVICE(ordinal);
  *device = 0;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
  ENTER_DEVICE(device);
  snprintf(name, (size_t)length, "Emulated GPU (software, times mean nothing)");
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
  ENTER_DEVICE(device);
  memcpy(uuid->bytes, "emulated-device", 16);
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuDeviceGetPCIBusId(char *text, int length, CUdevice device) {
  ENTER_DEVICE(device);
  snprintf(text, (size_t)length, "0000:01:00.0");
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
  ENTER_DEVICE(device);
  *bytes = memory_total();
  LEAVE(CUDA_SUCCESS);
}

/* By CUdevice_attribute; what is not here is 0, as a device says that lacks the feature. */
static const int attributes[][2] = {
    {1, 1024},   {2, 1024},     {3, 1024}, {4, 64},    {5, 1 << 30}, {6, 65535}, {7, 65535}, {8, 49152},
    {9, 65536},  {10, 32},      {12, 65536}, {13, 1000000}, {14, 512}, {15, 1},  {16, 2},    {19, 1},
    {31, 1},     {33, 1},       {36, 1000000}, {37, 128}, {38, 1 << 20}, {39, 1024}, {40, 2}, {41, 1},
    {78, 1},     {81, 49152},   {82, 65536}, {91, 1},  {99, 1},      {106, 16},
};

API CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  ENTER_DEVICE(device);
  FAIL_IF((int)attribute < 1 || (int)attribute > 200, CUDA_ERROR_INVALID_VALUE);
  *value = 0;
  for (size_t row = 0; row < sizeof attributes / sizeof *attributes; row++)
    if (attributes[row][0] == (int)attribute) *value = attributes[row][1];
  if ((int)attribute == 18) *value = setting_number("EMULATED_INTEGRATED", 0) != 0;
  if ((int)attribute == 75) *value = (int)setting_number("EMULATED_COMPUTE_CAPABILITY", 87) / 10;
  if ((int)attribute == 76) *value = (int)setting_number("EMULATED_COMPUTE_CAPABILITY", 87) % 10;
  if ((int)attribute == 115) *value = setting_number("EMULATED_MEMORY_POOLS", 1) != 0;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer) {
  ENTER_DEVICE(device | peer);
  *can = 0;
  LEAVE(CUDA_SUCCESS);
}

/* ---------------------------------------------------------------------------------------- contexts */

API CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice device) {
  ENTER_DEVICE(device);
  if (!primary || !primary->handle.live) {
    static unsigned long long ids;
    primary = calloc(1, sizeof *primary);
    primary->id = ++ids;
    primary->flags = primary_flags;
    handle_add(&primary->handle, CONTEXT);
  }
  FAIL_IF(primary->broken, primary->broken);
  primary->references++;
  *out = (CUcontext)primary;
  LEAVE(CUDA_SUCCESS);
}

static void destroy_primary(void) {
  wait_for_all();
  memory_lose_all();
  handle_remove(&primary->handle);
}

API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  ENTER_DEVICE(device);
  FAIL_IF(!primary || !primary->handle.live, CUDA_ERROR_INVALID_CONTEXT);
  if (--primary->references == 0) destroy_primary();
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
  ENTER_DEVICE(device);
  if (primary && primary->handle.live) destroy_primary();
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active) {
  ENTER_DEVICE(device);
  *flags = primary_flags;
  *active = primary && primary->handle.live;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned int flags) {
  ENTER_DEVICE(device);
  primary_flags = flags;
  LEAVE(CUDA_SUCCESS);
}

#define ENTER_STARTED()                                                                                                \
  ENTER(FREE_CALL);                                                                                                    \
  FAIL_IF(!initialised, CUDA_ERROR_NOT_INITIALIZED)

API CUresult cuCtxPushCurrent_v2(CUcontext context) {
  ENTER_STARTED();
  FAIL_IF(!handle_find(context, CONTEXT) || depth == STACK, CUDA_ERROR_INVALID_CONTEXT);
  stack[depth++] = (struct context *)context;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuCtxPopCurrent_v2(CUcontext *context) {
  ENTER_STARTED();
  FAIL_IF(!depth, CUDA_ERROR_INVALID_CONTEXT);
  depth--;
  if (context) *context = (CUcontext)stack[depth];
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuCtxSetCurrent(CUcontext context) {
  ENTER_STARTED();
  FAIL_IF(context && !handle_find(context, CONTEXT), CUDA_ERROR_INVALID_CONTEXT);
  if (!context) depth -= depth > 0;
  else stack[depth ? depth - 1 : depth++] = (struct context *)context;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuCtxGetCurrent(CUcontext *context) {
  ENTER_STARTED();
  *context = (CUcontext)current_context();
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuCtxGetDevice(CUdevice *device) {
  ENTER(NEEDS_CONTEXT);
  *device = 0;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuCtxGetFlags(unsigned int *flags) {
  ENTER(NEEDS_CONTEXT);
  *flags = current_context()->flags;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuCtxGetId(CUcontext context, unsigned long long *id) {
  ENTER(NEEDS_CONTEXT);
  struct context *asked = context ? handle_find(context, CONTEXT) : current_context();
  FAIL_IF(!asked, CUDA_ERROR_CONTEXT_IS_DESTROYED);
  *id = asked->id;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuCtxGetApiVersion(CUcontext context, unsigned int *version) {
  ENTER(NEEDS_CONTEXT);
  FAIL_IF(context && !handle_find(context, CONTEXT), CUDA_ERROR_INVALID_CONTEXT);
  *version = 3020;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  ENTER(NEEDS_CONTEXT);
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  LEAVE(CUDA_SUCCESS);
}

API CUresult cuCtxSynchronize(void) {
  ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
  wait_for_all();
  LEAVE(current_context()->broken);
}

/* For tests: let the context work again after a sticky error, which no real device can. */
API void emulated_mend(void) {
  pthread_mutex_lock(&big_lock);
  if (primary) primary->broken = CUDA_SUCCESS;
  pthread_mutex_unlock(&big_lock);
}
