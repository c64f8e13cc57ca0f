/* Names of errors, and which function a name means in which version. */
#include "emulated.h"
#include <string.h>

static const struct {
  int code;
  const char *name, *text;
} errors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {4, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {800, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {902, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "operation would result in a merge of separate capture sequences"},
    {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"},
    {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing stream"},
    {907, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a capture from a different thread"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

API CUresult cuGetErrorName(CUresult code, const char **text) {
  for (size_t row = 0; row < sizeof errors / sizeof *errors; row++)
    if (errors[row].code == (int)code) return *text = errors[row].name, CUDA_SUCCESS;
  return *text = NULL, CUDA_ERROR_INVALID_VALUE;
}

API CUresult cuGetErrorString(CUresult code, const char **text) {
  for (size_t row = 0; row < sizeof errors / sizeof *errors; row++)
    if (errors[row].code == (int)code) return *text = errors[row].text, CUDA_SUCCESS;
  return *text = NULL, CUDA_ERROR_INVALID_VALUE;
}

/* X(name that is asked for, CUDA version from which it means this function, the function) */
#define ALL_FUNCTIONS(X)                                                                                               \
  X("cuInit", 2000, cuInit)                                                                                            \
  X("cuDriverGetVersion", 2020, cuDriverGetVersion)                                                                    \
  X("cuCtxGetApiVersion", 3020, cuCtxGetApiVersion)                                                                    \
  X("cuCtxGetCurrent", 4000, cuCtxGetCurrent)                                                                          \
  X("cuCtxGetDevice", 2000, cuCtxGetDevice)                                                                            \
  X("cuCtxGetFlags", 7000, cuCtxGetFlags)                                                                              \
  X("cuCtxGetId", 12000, cuCtxGetId)                                                                                   \
  X("cuCtxGetStreamPriorityRange", 5050, cuCtxGetStreamPriorityRange)                                                  \
  X("cuCtxPopCurrent", 4000, cuCtxPopCurrent_v2)                                                                       \
  X("cuCtxPushCurrent", 4000, cuCtxPushCurrent_v2)                                                                     \
  X("cuCtxSetCurrent", 4000, cuCtxSetCurrent)                                                                          \
  X("cuCtxSynchronize", 2000, cuCtxSynchronize)                                                                        \
  X("cuDeviceCanAccessPeer", 4000, cuDeviceCanAccessPeer)                                                              \
  X("cuDeviceGet", 2000, cuDeviceGet)                                                                                  \
  X("cuDeviceGetAttribute", 2000, cuDeviceGetAttribute)                                                                \
  X("cuDeviceGetCount", 2000, cuDeviceGetCount)                                                                        \
  X("cuDeviceGetDefaultMemPool", 11020, cuDeviceGetDefaultMemPool)                                                     \
  X("cuDeviceGetMemPool", 11020, cuDeviceGetMemPool)                                                                   \
  X("cuDeviceGetName", 2000, cuDeviceGetName)                                                                          \
  X("cuDeviceGetPCIBusId", 4010, cuDeviceGetPCIBusId)                                                                  \
  X("cuDeviceGetUuid", 11040, cuDeviceGetUuid_v2)                                                                      \
  X("cuDevicePrimaryCtxGetState", 7000, cuDevicePrimaryCtxGetState)                                                    \
  X("cuDevicePrimaryCtxRelease", 11000, cuDevicePrimaryCtxRelease_v2)                                                  \
  X("cuDevicePrimaryCtxReset", 11000, cuDevicePrimaryCtxReset_v2)                                                      \
  X("cuDevicePrimaryCtxRetain", 7000, cuDevicePrimaryCtxRetain)                                                        \
  X("cuDevicePrimaryCtxSetFlags", 11000, cuDevicePrimaryCtxSetFlags_v2)                                                \
  X("cuDeviceTotalMem", 3020, cuDeviceTotalMem_v2)                                                                     \
  X("cuEventCreate", 2000, cuEventCreate)                                                                              \
  X("cuEventDestroy", 4000, cuEventDestroy_v2)                                                                         \
  X("cuEventElapsedTime", 2000, cuEventElapsedTime)                                                                    \
  X("cuEventElapsedTime", 12080, cuEventElapsedTime_v2)                                                                \
  X("cuEventQuery", 2000, cuEventQuery)                                                                                \
  X("cuEventRecord", 2000, cuEventRecord)                                                                              \
  X("cuEventRecordWithFlags", 11010, cuEventRecordWithFlags)                                                           \
  X("cuEventSynchronize", 2000, cuEventSynchronize)                                                                    \
  X("cuGetErrorName", 6000, cuGetErrorName)                                                                            \
  X("cuGetErrorString", 6000, cuGetErrorString)                                                                        \
  X("cuGetProcAddress", 11030, cuGetProcAddress)                                                                       \
  X("cuGetProcAddress", 12000, cuGetProcAddress_v2)                                                                    \
  X("cuGraphCreate", 10000, cuGraphCreate)                                                                             \
  X("cuGraphDestroy", 10000, cuGraphDestroy)                                                                           \
  X("cuGraphExecDestroy", 10000, cuGraphExecDestroy)                                                                   \
  X("cuGraphGetNodes", 10000, cuGraphGetNodes)                                                                         \
  X("cuGraphInstantiateWithFlags", 11040, cuGraphInstantiateWithFlags)                                                 \
  X("cuGraphInstantiateWithParams", 12000, cuGraphInstantiateWithParams)                                               \
  X("cuGraphInstantiate", 12000, cuGraphInstantiateWithFlags)                                                           \
  X("cuGraphLaunch", 10000, cuGraphLaunch)                                                                             \
  X("cuGraphNodeGetType", 10000, cuGraphNodeGetType)                                                                   \
  X("cuGraphRetainUserObject", 11030, cuGraphRetainUserObject)                                                         \
  X("cuGraphReleaseUserObject", 11030, cuGraphReleaseUserObject)                                                       \
  X("cuGraphUpload", 11010, cuGraphUpload)                                                                             \
  X("cuLaunchHostFunc", 10000, cuLaunchHostFunc)                                                                       \
  X("cuMemAllocAsync", 11020, cuMemAllocAsync)                                                                         \
  X("cuMemAllocFromPoolAsync", 11020, cuMemAllocFromPoolAsync)                                                         \
  X("cuMemAllocHost", 3020, cuMemAllocHost_v2)                                                                         \
  X("cuMemAlloc", 3020, cuMemAlloc_v2)                                                                                 \
  X("cuMemFreeAsync", 11020, cuMemFreeAsync)                                                                           \
  X("cuMemFreeHost", 2000, cuMemFreeHost)                                                                              \
  X("cuMemFree", 3020, cuMemFree_v2)                                                                                   \
  X("cuMemGetAddressRange", 3020, cuMemGetAddressRange_v2)                                                             \
  X("cuMemGetInfo", 3020, cuMemGetInfo_v2)                                                                             \
  X("cuMemHostAlloc", 2020, cuMemHostAlloc)                                                                            \
  X("cuMemHostGetDevicePointer", 3020, cuMemHostGetDevicePointer_v2)                                                   \
  X("cuMemHostGetFlags", 2030, cuMemHostGetFlags)                                                                      \
  X("cuMemPoolCreate", 11020, cuMemPoolCreate)                                                                         \
  X("cuMemPoolDestroy", 11020, cuMemPoolDestroy)                                                                       \
  X("cuMemPoolGetAccess", 11020, cuMemPoolGetAccess)                                                                   \
  X("cuMemPoolGetAttribute", 11020, cuMemPoolGetAttribute)                                                             \
  X("cuMemPoolSetAccess", 11020, cuMemPoolSetAccess)                                                                   \
  X("cuMemPoolSetAttribute", 11020, cuMemPoolSetAttribute)                                                             \
  X("cuMemPoolTrimTo", 11020, cuMemPoolTrimTo)                                                                         \
  X("cuMemcpy", 4000, cuMemcpy)                                                                                        \
  X("cuMemcpyAsync", 4000, cuMemcpyAsync)                                                                              \
  X("cuMemcpyDtoDAsync", 3020, cuMemcpyDtoDAsync_v2)                                                                   \
  X("cuMemcpyDtoD", 3020, cuMemcpyDtoD_v2)                                                                             \
  X("cuMemcpyDtoHAsync", 3020, cuMemcpyDtoHAsync_v2)                                                                   \
  X("cuMemcpyDtoH", 3020, cuMemcpyDtoH_v2)                                                                             \
  X("cuMemcpyHtoDAsync", 3020, cuMemcpyHtoDAsync_v2)                                                                   \
  X("cuMemcpyHtoD", 3020, cuMemcpyHtoD_v2)                                                                             \
  X("cuMemsetD16Async", 3020, cuMemsetD16Async)                                                                        \
  X("cuMemsetD16", 3020, cuMemsetD16_v2)                                                                               \
  X("cuMemsetD32Async", 3020, cuMemsetD32Async)                                                                        \
  X("cuMemsetD32", 3020, cuMemsetD32_v2)                                                                               \
  X("cuMemsetD8Async", 3020, cuMemsetD8Async)                                                                          \
  X("cuMemsetD8", 3020, cuMemsetD8_v2)                                                                                 \
  X("cuPointerGetAttribute", 4000, cuPointerGetAttribute)                                                              \
  X("cuPointerGetAttributes", 7000, cuPointerGetAttributes)                                                            \
  X("cuStreamAddCallback", 5000, cuStreamAddCallback)                                                                  \
  X("cuStreamBeginCapture", 10010, cuStreamBeginCapture_v2)                                                            \
  X("cuStreamCreate", 2000, cuStreamCreate)                                                                            \
  X("cuStreamCreateWithPriority", 5050, cuStreamCreateWithPriority)                                                    \
  X("cuStreamDestroy", 4000, cuStreamDestroy_v2)                                                                       \
  X("cuStreamEndCapture", 10000, cuStreamEndCapture)                                                                   \
  X("cuStreamGetCaptureInfo", 12030, cuStreamGetCaptureInfo_v3)                                                        \
  X("cuStreamGetCtx", 9020, cuStreamGetCtx)                                                                            \
  X("cuStreamGetCtx", 12050, cuStreamGetCtx_v2)                                                                        \
  X("cuStreamGetDevice", 12080, cuStreamGetDevice)                                                                     \
  X("cuStreamGetFlags", 5050, cuStreamGetFlags)                                                                        \
  X("cuStreamGetId", 12000, cuStreamGetId)                                                                             \
  X("cuStreamGetPriority", 5050, cuStreamGetPriority)                                                                  \
  X("cuStreamIsCapturing", 10000, cuStreamIsCapturing)                                                                 \
  X("cuStreamQuery", 2000, cuStreamQuery)                                                                              \
  X("cuStreamSynchronize", 2000, cuStreamSynchronize)                                                                  \
  X("cuStreamWaitEvent", 3020, cuStreamWaitEvent)                                                                      \
  X("cuThreadExchangeStreamCaptureMode", 10010, cuThreadExchangeStreamCaptureMode)                                     \
  X("cuUserObjectCreate", 11030, cuUserObjectCreate)                                                                   \
  X("cuUserObjectRelease", 11030, cuUserObjectRelease)                                                                 \
  X("cuUserObjectRetain", 11030, cuUserObjectRetain)

#define DECLARE(name, version, function) extern void function##_declared(void) __asm__(#function);
ALL_FUNCTIONS(DECLARE)

static const struct {
  const char *name;
  int version;
  void (*function)(void);
} functions[] = {
#define ROW(name, version, function) {name, version, function##_declared},
    ALL_FUNCTIONS(ROW)};

API CUresult cuGetProcAddress_v2(const char *name, void **out, int version, cuuint64_t flags,
                                 CUdriverProcAddressQueryResult *status) {
  int best = 0;
  *out = NULL;
  for (size_t row = 0; row < sizeof functions / sizeof *functions; row++) {
    if (strcmp(functions[row].name, name) || functions[row].version > version || functions[row].version < best) continue;
    best = functions[row].version;
    *out = (void *)functions[row].function;
  }
  if (status) *status = *out ? 0 : 1;
  return *out ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

#undef cuGetProcAddress
API CUresult cuGetProcAddress(const char *name, void **out, int version, cuuint64_t flags) {
  return cuGetProcAddress_v2(name, out, version, flags, NULL);
}
