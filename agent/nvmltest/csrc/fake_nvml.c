/*
 * A stand-in for NVIDIA's libnvidia-ml.so.1 that answers from a file; see
 * ../README.md. It keeps no state but whether it is initialised: each call
 * reads the file again, so a test changes a GPU by replacing the file.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "nvml_abi.h"

#define MAX_STATE (64 << 10)
#define MAX_LINE (4 << 10)
#define MAX_GPUS 64
#define MAX_PROCS 128
#define MIB (1ULL << 20)

static atomic_int users; /* nvmlInit calls that nvmlShutdown did not undo */

/* ---- the state file ---- */

/* The state file as the call in progress sees it; empty if there is none. */
static _Thread_local char state[MAX_STATE + 1];

/* load reads the state file, and says whether there is one. */
static int load(void)
{
	const char *path = getenv("FAKE_NVML_FILE");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	ssize_t n = 0, got;
	while (fd >= 0 && n < MAX_STATE && (got = read(fd, state + n, MAX_STATE - n)) > 0)
		n += got;
	state[n] = '\0';
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* find copies the last value of key to out, and says whether there is one. */
static int find(const char *key, char *out, size_t size)
{
	size_t len = strlen(key);
	int found = 0;
	for (const char *line = state; *line; line = *line ? line + 1 : line) {
		const char *end = strchrnul(line, '\n');
		const char *p = line + strspn(line, " \t");
		if (p < end && !strncmp(p, key, len) && (p[len] == ' ' || p[len] == '\t' || p + len == end)) {
			const char *v = p + len, *tail = end;
			while (v < end && (*v == ' ' || *v == '\t'))
				v++;
			while (tail > v && (tail[-1] == ' ' || tail[-1] == '\t' || tail[-1] == '\r'))
				tail--;
			snprintf(out, size, "%.*s", (int)(tail - v), v);
			found = 1;
		}
		line = end;
	}
	return found;
}

static long number(const char *key, long otherwise)
{
	char value[32];
	return find(key, value, sizeof value) ? strtol(value, NULL, 10) : otherwise;
}

/* gpu_key writes "gpuN.property". */
static const char *gpu_key(char *buf, size_t size, int gpu, const char *property)
{
	snprintf(buf, size, "gpu%d.%s", gpu, property);
	return buf;
}

static long gpu_number(int gpu, const char *property, long otherwise)
{
	char key[128];
	return number(gpu_key(key, sizeof key, gpu, property), otherwise);
}

static int gpu_text(int gpu, const char *property, char *out, size_t size)
{
	char key[128];
	return find(gpu_key(key, sizeof key, gpu, property), out, size);
}

static long gpu_count(void)
{
	long n = number("count", 0);
	return n < 0 ? 0 : n > MAX_GPUS ? MAX_GPUS : n;
}

/* ---- what every call does ---- */

/* begin is the first thing that every call does. It says whether there is a state. */
static int begin(const char *symbol, int gpu)
{
	const char *path = getenv("FAKE_NVML_TRACE");
	FILE *f = path ? fopen(path, "ae") : NULL;
	if (f && gpu < 0)
		fprintf(f, "%s\n", symbol);
	else if (f)
		fprintf(f, "%s gpu%d\n", symbol, gpu);
	if (f)
		fclose(f);
	return load();
}

/* hang sleeps while key is in the file, and for no longer than it says. */
static void hang(const char *key)
{
	const struct timespec step = {.tv_nsec = 5 * 1000 * 1000};
	for (long waited = 0; waited < number(key, 0); waited += 5) {
		nanosleep(&step, NULL);
		load();
	}
}

static int index_of(device d) { return (int)(uintptr_t)d - 1; }

/* enter begins a call for a GPU, and returns what the state says that it answers. */
static code enter(const char *symbol, int gpu)
{
	char key[128];
	long err;

	begin(symbol, gpu);
	if (!users)
		return UNINITIALIZED;
	hang(gpu_key(key, sizeof key, gpu, "hang_ms"));
	if (gpu >= gpu_count() || gpu_number(gpu, "lost", 0))
		return GPU_IS_LOST;
	if ((err = gpu_number(gpu, "err", 0)))
		return err;
	snprintf(key, sizeof key, "gpu%d.err.%s", gpu, symbol);
	return number(key, 0);
}

#define ENTER(d)                                           \
	do {                                               \
		code entered = enter(__func__, index_of(d)); \
		if (entered)                               \
			return entered;                    \
	} while (0)

static code copy(char *out, unsigned size, const char *text)
{
	if (strlen(text) >= size)
		return INSUFFICIENT_SIZE;
	strcpy(out, text);
	return OK;
}

/* ---- the library ---- */

code nvmlInit_v2(void)
{
	int there = begin(__func__, -1);
	hang("init_hang_ms");
	long err = there ? number("init_err", 0) : DRIVER_NOT_LOADED;
	if (!err)
		users++;
	return err;
}

code nvmlShutdown(void)
{
	begin(__func__, -1);
	if (!users)
		return UNINITIALIZED;
	users--;
	return OK;
}

const char *nvmlErrorString(code c)
{
	static _Thread_local char text[32];
	snprintf(text, sizeof text, "fake NVML error %d", c);
	return text;
}

code nvmlSystemGetDriverVersion(char *out, unsigned size)
{
	char value[96];
	begin(__func__, -1);
	if (!users)
		return UNINITIALIZED;
	return copy(out, size, find("driver", value, sizeof value) ? value : "570.86.15");
}

code nvmlDeviceGetCount_v2(unsigned *out)
{
	begin(__func__, -1);
	if (!users)
		return UNINITIALIZED;
	*out = gpu_count();
	return OK;
}

code nvmlDeviceGetHandleByIndex_v2(unsigned index, device *out)
{
	char key[128];
	begin(__func__, index);
	if (!users)
		return UNINITIALIZED;
	hang(gpu_key(key, sizeof key, index, "hang_ms"));
	if (index >= gpu_count())
		return INVALID_ARGUMENT;
	if (gpu_number(index, "lost", 0))
		return GPU_IS_LOST;
	*out = (device)(uintptr_t)(index + 1);
	return number((snprintf(key, sizeof key, "gpu%u.err.%s", index, __func__), key), 0);
}

/* ---- one GPU ---- */

code nvmlDeviceGetUUID(device d, char *out, unsigned size)
{
	char uuid[128];
	ENTER(d);
	if (!gpu_text(index_of(d), "uuid", uuid, sizeof uuid))
		snprintf(uuid, sizeof uuid, "GPU-fa4e%04x-0000-4000-8000-000000000000", index_of(d));
	return copy(out, size, uuid);
}

code nvmlDeviceGetName(device d, char *out, unsigned size)
{
	char name[128];
	ENTER(d);
	return copy(out, size, gpu_text(index_of(d), "name", name, sizeof name) ? name : "NVIDIA H100 80GB HBM3");
}

code nvmlDeviceGetPciInfo_v3(device d, struct pci_info *out)
{
	char text[64];
	unsigned function;
	ENTER(d);
	memset(out, 0, sizeof *out);
	if (!gpu_text(index_of(d), "pci", text, sizeof text))
		snprintf(text, sizeof text, "00000000:%02x:00.0", index_of(d) + 1);
	if (sscanf(text, "%x:%x:%x.%x", &out->domain, &out->bus, &out->device, &function) != 4)
		return INVALID_ARGUMENT;
	snprintf(out->bus_id, sizeof out->bus_id, "%08X:%02X:%02X.%X", out->domain, out->bus, out->device, function);
	snprintf(out->bus_id_legacy, sizeof out->bus_id_legacy, "%04X:%02X:%02X.%X", out->domain & 0xffff,
		 out->bus & 0xff, out->device & 0xff, function & 0xf);
	out->pci_device_id = 0x233010de;
	return OK;
}

code nvmlDeviceGetUtilizationRates(device d, struct utilization *out)
{
	ENTER(d);
	out->gpu = gpu_number(index_of(d), "util", 0);
	out->memory = gpu_number(index_of(d), "memutil", 0);
	return OK;
}

static struct memory_v2 memory_of(device d)
{
	struct memory_v2 m = {
		.total = gpu_number(index_of(d), "mem_total_mib", 81559) * MIB,
		.reserved = gpu_number(index_of(d), "mem_reserved_mib", 0) * MIB,
		.used = gpu_number(index_of(d), "mem_used_mib", 0) * MIB,
	};
	m.free = m.total - m.reserved - m.used;
	return m;
}

/* The older call counts reserved memory as used. */
code nvmlDeviceGetMemoryInfo(device d, struct memory *out)
{
	ENTER(d);
	struct memory_v2 m = memory_of(d);
	*out = (struct memory){.total = m.total, .free = m.free, .used = m.used + m.reserved};
	return OK;
}

code nvmlDeviceGetMemoryInfo_v2(device d, struct memory_v2 *out)
{
	ENTER(d);
	if (out->version != STRUCT_VERSION(struct memory_v2, 2))
		return ARGUMENT_VERSION_MISMATCH;
	unsigned version = out->version;
	*out = memory_of(d);
	out->version = version;
	return OK;
}

code nvmlDeviceGetPowerUsage(device d, unsigned *milliwatts)
{
	ENTER(d);
	*milliwatts = gpu_number(index_of(d), "power_mw", 70000);
	return OK;
}

code nvmlDeviceGetTemperature(device d, int sensor, unsigned *celsius)
{
	ENTER(d);
	if (sensor != 0)
		return INVALID_ARGUMENT;
	*celsius = gpu_number(index_of(d), "temp", 35);
	return OK;
}

code nvmlDeviceGetTemperatureV(device d, struct temperature *t)
{
	ENTER(d);
	if (t->version != STRUCT_VERSION(struct temperature, 1))
		return ARGUMENT_VERSION_MISMATCH;
	if (t->sensor != 0)
		return INVALID_ARGUMENT;
	t->temperature = gpu_number(index_of(d), "temp", 35);
	return OK;
}

/* parse_procs reads "PID:MIB PID:MIB ..." and returns how many there are. */
static unsigned parse_procs(device d, struct process *out)
{
	char text[MAX_LINE], *rest = text, *word;
	unsigned n = 0;
	if (!gpu_text(index_of(d), "procs", text, sizeof text))
		return 0;
	while (n < MAX_PROCS && (word = strtok_r(rest, " \t", &rest))) {
		char *mib = strchr(word, ':');
		int unknown = !mib || mib[1] == '-';
		out[n++] = (struct process){
			.pid = strncmp(word, "self", 4) ? strtoul(word, NULL, 10) : (unsigned)getpid(),
			.used = unknown ? ~0ULL : strtoull(mib + 1, NULL, 10) * MIB,
			.gpu_instance = ~0U,
			.compute_instance = ~0U,
		};
	}
	return n;
}

/* NVML's size protocol: too small a buffer is answered with the size needed. */
#define FIT(have, need)                        \
	do {                                   \
		unsigned room = *(have);       \
		*(have) = (need);              \
		if ((need) > room)             \
			return INSUFFICIENT_SIZE; \
	} while (0)

code nvmlDeviceGetComputeRunningProcesses_v3(device d, unsigned *count, struct process *out)
{
	struct process all[MAX_PROCS];
	ENTER(d);
	unsigned n = parse_procs(d, all);
	FIT(count, n);
	memcpy(out, all, n * sizeof *out);
	return OK;
}

/* The calls of older drivers. */

code nvmlDeviceGetComputeRunningProcesses_v2(device d, unsigned *count, struct process *out)
{
	struct process all[MAX_PROCS];
	ENTER(d);
	unsigned n = parse_procs(d, all);
	FIT(count, n);
	memcpy(out, all, n * sizeof *out);
	return OK;
}

code nvmlDeviceGetComputeRunningProcesses(device d, unsigned *count, struct process_v1 *out)
{
	struct process all[MAX_PROCS];
	ENTER(d);
	unsigned n = parse_procs(d, all);
	FIT(count, n);
	for (unsigned i = 0; i < n; i++)
		out[i] = (struct process_v1){.pid = all[i].pid, .used = all[i].used};
	return OK;
}
