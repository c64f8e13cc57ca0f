/* NVML in software: one device that says what a script tells it to.

   $EMULATED_NVML_SCRIPT names a file with lines as

       power 31000 45200 !15 47000
       temperature 41 42

   Each call for a value takes the next one of its line, and the last one again and again; !15 is NVML's error 15.
   Lines: power (mW), energy (mJ; without a line it follows power over time), clock_graphics, clock_sm, clock_mem,
   clock_video (MHz), max_clock_sm, max_clock_mem, temperature (C), memory_used, memory_total (bytes),
   utilisation_gpu, utilisation_memory (%), throttle (bits), power_limit (mW), pstate, init (0, or an error). */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define API __attribute__((visibility("default")))
enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

typedef struct { unsigned long long total, free, used; } memory_v1;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { unsigned gpu, memory; } utilisation;
typedef struct {
  char bus_id_legacy[16];
  unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
  char bus_id[32];
} pci_info;
typedef struct { unsigned version, sensor; int temperature; } temperature_v1;

static const struct {
  const char *name;
  long long value;
} defaults[] = {
    {"power", 30000},           {"clock_graphics", 1300},    {"clock_sm", 1300},     {"clock_mem", 2000},
    {"clock_video", 1000},      {"max_clock_graphics", 1300}, {"max_clock_sm", 1300}, {"max_clock_mem", 2000},
    {"max_clock_video", 1000},  {"temperature", 40},         {"memory_used", 1 << 28}, {"memory_total", 1 << 30},
    {"utilisation_gpu", 50},    {"utilisation_memory", 20},  {"throttle", 0},        {"power_limit", 60000},
    {"pstate", 0},              {"init", 0},
};
static struct line {
  char name[32];
  char *next;
} lines[64];
static int line_count, started;
static double start_s;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char device;

static double now_s(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void read_script(void) {
  const char *path = getenv("EMULATED_NVML_SCRIPT");
  FILE *file = path && *path ? fopen(path, "r") : NULL;
  char text[65536], name[32];
  int used;
  line_count = 0;
  while (file && line_count < 64 && fgets(text, sizeof text, file))
    if (sscanf(text, "%31s%n", name, &used) == 1 && *name != '#') {
      strcpy(lines[line_count].name, name);
      lines[line_count++].next = strdup(text + used);
    }
  if (file) fclose(file);
}

/* With the lock held. */
static int next_value(const char *name, long long *value) {
  for (int at = 0; at < line_count; at++) {
    struct line *line = &lines[at];
    char *end, *rest;
    if (strcmp(line->name, name)) continue;
    while (*line->next == ' ') line->next++;
    int error = *line->next == '!';
    *value = strtoll(line->next + error, &end, 10);
    if (end == line->next + error) return NOT_SUPPORTED;
    for (rest = end; *rest == ' ' || *rest == '\n' || *rest == '\r'; rest++) {}
    if (*rest) line->next = end;
    return error ? (int)*value : OK;
  }
  for (size_t row = 0; row < sizeof defaults / sizeof *defaults; row++)
    if (!strcmp(defaults[row].name, name)) return *value = defaults[row].value, OK;
  return NOT_SUPPORTED;
}

static int ask(const void *given, const char *name, long long *value) {
  pthread_mutex_lock(&lock);
  int code = !started ? UNINITIALIZED : given != &device ? INVALID_ARGUMENT : next_value(name, value);
  pthread_mutex_unlock(&lock);
  return code;
}

static int ask_number(const void *given, const char *name, unsigned *out) {
  long long value = 0;
  int code = ask(given, name, &value);
  if (!code) *out = (unsigned)value;
  return code;
}

API int nvmlInitWithFlags(unsigned flags) {
  long long code = 0;
  (void)flags;
  pthread_mutex_lock(&lock);
  read_script();
  int failed = next_value("init", &code);
  if (!failed && !code && !started++) start_s = now_s();
  pthread_mutex_unlock(&lock);
  return failed ? failed : (int)code;
}
API int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API int nvmlInit(void) { return nvmlInitWithFlags(0); }
API int nvmlShutdown(void) {
  pthread_mutex_lock(&lock);
  int code = started ? OK : UNINITIALIZED;
  if (started) started--;
  pthread_mutex_unlock(&lock);
  return code;
}
/* How many have begun and not ended. */
API int emulated_nvml_sessions(void) { return started; }

API const char *nvmlErrorString(int code) {
  static const char *texts[] = {"The operation was successful", "Uninitialized", "Invalid Argument", "Not Supported",
                                "Insufficient Permissions", "Already Initialized", "Not Found", "Insufficient Size"};
  return code >= 0 && code < 8 ? texts[code] : code == 15 ? "GPU is lost" : "Unknown Error";
}

static int text(char *out, unsigned room, const char *value) {
  if (!started) return UNINITIALIZED;
  if (strlen(value) + 1 > room) return INSUFFICIENT_SIZE;
  strcpy(out, value);
  return OK;
}

API int nvmlSystemGetDriverVersion(char *out, unsigned room) { return text(out, room, "0.0 (emulated)"); }
API int nvmlSystemGetNVMLVersion(char *out, unsigned room) { return text(out, room, "0.0"); }
API int nvmlSystemGetCudaDriverVersion_v2(int *version) { return *version = 13000, started ? OK : UNINITIALIZED; }
API int nvmlDeviceGetCount_v2(unsigned *count) { return *count = 1, started ? OK : UNINITIALIZED; }
API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
  *out = &device;
  return !started ? UNINITIALIZED : index ? INVALID_ARGUMENT : OK;
}
API int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **out) {
  *out = &device;
  return !started ? UNINITIALIZED : strstr(id, "0000:01:00.0") ? OK : NOT_FOUND;
}
API int nvmlDeviceGetHandleByUUID(const char *id, void **out) {
  *out = &device;
  return !started ? UNINITIALIZED : strncmp(id, "GPU-656d756c", 12) ? NOT_FOUND : OK;
}
API int nvmlDeviceGetName(void *given, char *out, unsigned room) {
  return given != &device ? INVALID_ARGUMENT : text(out, room, "Emulated GPU (software, times mean nothing)");
}
API int nvmlDeviceGetUUID(void *given, char *out, unsigned room) {
  return given != &device ? INVALID_ARGUMENT : text(out, room, "GPU-656d756c-6174-6564-2d64-657669636500");
}
API int nvmlDeviceGetIndex(void *given, unsigned *index) { return *index = 0, given == &device ? OK : INVALID_ARGUMENT; }
API int nvmlDeviceGetPciInfo_v3(void *given, pci_info *info) {
  if (given != &device) return INVALID_ARGUMENT;
  memset(info, 0, sizeof *info);
  info->bus = 1;
  strcpy(info->bus_id_legacy, "0000:01:00.0");
  strcpy(info->bus_id, "00000000:01:00.0");
  return OK;
}
API int nvmlDeviceGetPowerUsage(void *given, unsigned *milliwatts) { return ask_number(given, "power", milliwatts); }
API int nvmlDeviceGetPowerManagementLimit(void *given, unsigned *milliwatts) {
  return ask_number(given, "power_limit", milliwatts);
}
API int nvmlDeviceGetEnforcedPowerLimit(void *given, unsigned *milliwatts) {
  return ask_number(given, "power_limit", milliwatts);
}

API int nvmlDeviceGetTotalEnergyConsumption(void *given, unsigned long long *millijoules) {
  long long value = 0;
  int code = ask(given, "energy", &value);
  if (code == NOT_SUPPORTED) {
    code = OK;
    value = (long long)((now_s() - start_s) * 30000);
  }
  if (!code) *millijoules = (unsigned long long)value;
  return code;
}

static const char *const clocks[][2] = {{"clock_graphics", "max_clock_graphics"},
                                        {"clock_sm", "max_clock_sm"},
                                        {"clock_mem", "max_clock_mem"},
                                        {"clock_video", "max_clock_video"}};
API int nvmlDeviceGetClockInfo(void *given, unsigned kind, unsigned *mhz) {
  return kind > 3 ? INVALID_ARGUMENT : ask_number(given, clocks[kind][0], mhz);
}
API int nvmlDeviceGetMaxClockInfo(void *given, unsigned kind, unsigned *mhz) {
  return kind > 3 ? INVALID_ARGUMENT : ask_number(given, clocks[kind][1], mhz);
}
API int nvmlDeviceGetTemperature(void *given, unsigned sensor, unsigned *celsius) {
  return sensor ? INVALID_ARGUMENT : ask_number(given, "temperature", celsius);
}
API int nvmlDeviceGetTemperatureV(void *given, temperature_v1 *out) {
  return out->sensor ? INVALID_ARGUMENT : ask_number(given, "temperature", (unsigned *)&out->temperature);
}

static int memory(void *given, unsigned long long *total, unsigned long long *used) {
  long long value = 0;
  int code = ask(given, "memory_total", &value);
  *total = (unsigned long long)value;
  if (!code) code = ask(given, "memory_used", &value);
  *used = (unsigned long long)value;
  return code;
}
API int nvmlDeviceGetMemoryInfo(void *given, memory_v1 *out) {
  int code = memory(given, &out->total, &out->used);
  out->free = out->total - out->used;
  return code;
}
API int nvmlDeviceGetMemoryInfo_v2(void *given, memory_v2 *out) {
  int code = memory(given, &out->total, &out->used);
  out->reserved = 0;
  out->free = out->total - out->used;
  return code;
}
API int nvmlDeviceGetUtilizationRates(void *given, utilisation *out) {
  int code = ask_number(given, "utilisation_gpu", &out->gpu);
  return code ? code : ask_number(given, "utilisation_memory", &out->memory);
}
static int throttle(void *given, unsigned long long *bits) {
  long long value = 0;
  int code = ask(given, "throttle", &value);
  if (!code) *bits = (unsigned long long)value;
  return code;
}
API int nvmlDeviceGetCurrentClocksThrottleReasons(void *given, unsigned long long *bits) { return throttle(given, bits); }
API int nvmlDeviceGetCurrentClocksEventReasons(void *given, unsigned long long *bits) { return throttle(given, bits); }
API int nvmlDeviceGetSupportedClocksThrottleReasons(void *given, unsigned long long *bits) {
  return *bits = 0x1ff, given == &device ? OK : INVALID_ARGUMENT;
}
API int nvmlDeviceGetSupportedClocksEventReasons(void *given, unsigned long long *bits) {
  return *bits = 0x1ff, given == &device ? OK : INVALID_ARGUMENT;
}
API int nvmlDeviceGetPerformanceState(void *given, unsigned *state) { return ask_number(given, "pstate", state); }
API int nvmlDeviceGetPersistenceMode(void *given, unsigned *mode) {
  return *mode = 1, given == &device ? OK : INVALID_ARGUMENT;
}
API int nvmlDeviceGetCudaComputeCapability(void *given, int *major, int *minor) {
  return *major = 8, *minor = 7, given == &device ? OK : INVALID_ARGUMENT;
}

typedef struct {
  unsigned field, scope;
  long long timestamp, latency;
  unsigned type, code;
  unsigned long long value;
} field_value;

/* 83 total energy (mJ), 185 average power, 186 power of this moment (mW; line power_instant, else power). */
API int nvmlDeviceGetFieldValues(void *given, int count, field_value *values) {
  if (given != &device || count < 1) return INVALID_ARGUMENT;
  for (int at = 0; at < count; at++) {
    field_value *field = &values[at];
    unsigned power = 0;
    field->value = 0;
    field->timestamp = (long long)(now_s() * 1e6);
    field->type = field->field == 83 ? 3 : 1; /* unsigned long long, unsigned int */
    if (field->field == 83) field->code = (unsigned)nvmlDeviceGetTotalEnergyConsumption(given, &field->value);
    else if (field->field == 185 || field->field == 186) {
      field->code = (unsigned)ask_number(given, field->field == 186 ? "power_instant" : "power", &power);
      if (field->code == NOT_SUPPORTED) field->code = (unsigned)ask_number(given, "power", &power);
      field->value = power;
    } else field->code = NOT_SUPPORTED;
  }
  return OK;
}
