/* Stands in for NVIDIA's library on a machine without its driver: the same symbols, types and order of arguments. */
#include <stdlib.h>
#include <string.h>
#define OK 0
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
static int gpus[3] = {0, 1, 2}; /* whole, whole, and a slice of one that shows itself when asked to */
#define IS_SLICED (getenv("STUB_NVML_SLICED") != 0)
int nvmlInit_v2(void) { return OK; }
int nvmlSystemGetDriverVersion(char *text, unsigned int length) { strncpy(text, "999.1", length); return OK; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) { *handle = &gpus[index]; return index < 2 ? OK : 2; }
int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending) {
    if (*(int *)handle) return 3; /* not supported */
    *current = *pending = IS_SLICED; return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned int *count) { *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned int index, void **slice) {
    *slice = &gpus[2]; return index == 3 ? OK : 6; /* the others are somebody else's: not found */
}
int nvmlDeviceGetName(void *handle, char *text, unsigned int length) { strncpy(text, "Stub GPU", length); return OK; }
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    int index = *(int *)handle;
    if (!index && IS_SLICED) return 4; /* the whole of a sliced GPU: no permission */
    memory->total = 1ULL << 34; memory->free = index == 1 ? 1ULL << 20 : 1ULL << 33; memory->used = memory->total - memory->free;
    return OK;
}
int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *rates) {
    if (*(int *)handle) return 3; /* not supported, as a MIG slice answers */
    rates->gpu = 75; rates->memory = 20;
    return OK;
}
