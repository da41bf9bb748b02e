/* A stand-in for NVIDIA's driver, for machines without one: it shows one card, a GTX 1080 Ti, and
   computes nothing. TensorFlow gets as far with it as to decide whether it would use the card.

       cc -shared -fPIC -o libcuda.so.1 stand_in_driver.c && cp libcuda.so.1 libnvidia-ml.so.1

   STAND_IN_CAPABILITY, like 86, gives the card another compute capability than 61. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *NAME = "NVIDIA GeForce GTX 1080 Ti";
static const size_t MEMORY = 11721506816;
static void *const CONTEXT = (void *)16;

static int capability(void)
{
    const char *text = getenv("STAND_IN_CAPABILITY");
    return text ? atoi(text) : 61;
}

/* libcuda.so.1 */

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = MEMORY; return 0; }
int cuDeviceGetUuid(char *uuid, int device) { memset(uuid, 7, 16); return 0; }
int cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, 7, 16); return 0; }
int cuDeviceCanAccessPeer(int *can, int a, int b) { *can = 0; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = CONTEXT; return 0; }
int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) { return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuCtxGetCurrent(void **context) { *context = CONTEXT; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }

int cuDeviceGetName(char *name, int length, int device)
{
    snprintf(name, length, "%s", NAME);
    return 0;
}

int cuDeviceGetPCIBusId(char *text, int length, int device)
{
    snprintf(text, length, "0000:01:00.0");
    return 0;
}

int cuDeviceComputeCapability(int *major, int *minor, int device)
{
    *major = capability() / 10;
    *minor = capability() % 10;
    return 0;
}

int cuGetErrorName(int error, const char **text) { *text = "STAND_IN"; return 0; }

int cuGetErrorString(int error, const char **text)
{
    *text = "this driver is a stand-in";
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    switch (attribute) {
    case 1: case 2: case 39: *value = 1024; break;     /* threads per block, in x, per processor */
    case 4: *value = 64; break;                        /* threads per block in z */
    case 5: *value = 2147483647; break;                /* blocks in x */
    case 6: case 7: *value = 65535; break;             /* blocks in y and z */
    case 8: case 97: *value = 49152; break;            /* shared memory per block */
    case 10: *value = 32; break;                       /* threads per warp */
    case 12: case 82: *value = 65536; break;           /* registers per block, per processor */
    case 13: *value = 1582000; break;                  /* clock, kHz */
    case 16: *value = 28; break;                       /* processors */
    case 36: *value = 5505000; break;                  /* memory's clock, kHz */
    case 37: *value = 352; break;                      /* memory's bus, bits */
    case 38: *value = 2883584; break;                  /* L2 cache */
    case 75: *value = capability() / 10; break;
    case 76: *value = capability() % 10; break;
    case 81: *value = 98304; break;                    /* shared memory per processor */
    default: *value = 0;
    }
    return 0;
}

/* libnvidia-ml.so.1 */

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = CONTEXT; return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **device) { *device = CONTEXT; return 0; }

int nvmlSystemGetDriverVersion(char *text, unsigned length)
{
    snprintf(text, length, "580.95.05");
    return 0;
}
