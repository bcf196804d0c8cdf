/*
 * A stand-in for NVIDIA's libnvidia-ml.so.1 that answers from a file; see
 * ../README.md. Each call looks whether the file was replaced, so a test changes
 * a GPU by replacing it. All else that is kept between calls is whether the
 * library is initialised, and what event sets and monitor samples have to keep.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
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

/* changed says whether the state file is another one than when it was last asked for the same stamp. */
static int changed(const char *path, struct stat *stamp)
{
	struct stat now = {0};
	if (path)
		stat(path, &now);
	int other = now.st_ino != stamp->st_ino || now.st_size != stamp->st_size || now.st_mtim.tv_sec != stamp->st_mtim.tv_sec ||
		    now.st_mtim.tv_nsec != stamp->st_mtim.tv_nsec;
	*stamp = now;
	return other;
}

/* load reads the state file if it is another one than before, and says whether there is one. */
static int load(void)
{
	static _Thread_local struct stat stamp; /* of what is in state */
	const char *path = getenv("FAKE_NVML_FILE");
	if (!changed(path, &stamp))
		return stamp.st_ino != 0;
	int fd = stamp.st_ino ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	ssize_t n = 0, got;
	while (fd >= 0 && n < MAX_STATE && (got = read(fd, state + n, MAX_STATE - n)) > 0)
		n += got;
	state[n] = '\0';
	if (fd >= 0)
		close(fd);
	else
		stamp.st_ino = 0; /* it went in between: look again */
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
	FILE *f = path && *path ? fopen(path, "ae") : NULL;
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

/* The handle of a GPU, or of the MIG device in one of its slots. */
static device handle(int gpu, int slot) { return (device)(uintptr_t)((gpu + 1) | (slot + 1) << 16); }

static int index_of(device d) { return (int)((uintptr_t)d & 0xffff) - 1; }

static int slot_of(device d) { return (int)((uintptr_t)d >> 16) - 1; } /* -1 for a whole GPU */

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

/* words splits a property at blanks into at most n numbers, and returns how
 * many there are: none for "-", and those of otherwise if it is absent. */
static int words(int gpu, const char *property, const char *otherwise, long long *out, int n)
{
	char text[MAX_LINE], *rest = text, *word;
	int found = 0;
	if (!gpu_text(gpu, property, text, sizeof text))
		snprintf(text, sizeof text, "%s", otherwise);
	while (found < n && (word = strtok_r(rest, " \t", &rest)) && strcmp(word, "-"))
		out[found++] = strtoll(word, NULL, 0);
	return found;
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
	*out = handle(index, -1);
	return number((snprintf(key, sizeof key, "gpu%u.err.%s", index, __func__), key), 0);
}

/* ---- one GPU ---- */

/* A MIG device as the state file has it. */
struct part {
	char uuid[128], profile[32];
	unsigned gpu_instance, compute_instance;
	unsigned long long total_mib, used_mib;
};

enum { MIG_SLOTS = 7 };

/* find_part reads the MIG device in a slot, and says whether there is one. */
static int find_part(int gpu, int slot, struct part *p)
{
	char property[32], text[MAX_LINE];
	snprintf(property, sizeof property, "mig.%d", slot);
	return gpu_number(gpu, "mig", 0) && gpu_text(gpu, property, text, sizeof text) &&
	       sscanf(text, "%127s %u %u %31s %llu %llu", p->uuid, &p->gpu_instance, &p->compute_instance, p->profile,
		      &p->total_mib, &p->used_mib) == 6;
}

/* PART reads the MIG device behind a handle. */
#define PART(d, p)                                                        \
	do {                                                              \
		if (slot_of(d) < 0)                                       \
			return INVALID_ARGUMENT;                          \
		if (!find_part(index_of(d), slot_of(d), p))               \
			return NOT_FOUND;                                 \
	} while (0)

code nvmlDeviceGetUUID(device d, char *out, unsigned size)
{
	char uuid[128];
	ENTER(d);
	if (slot_of(d) >= 0) {
		struct part p;
		PART(d, &p);
		return copy(out, size, p.uuid);
	}
	if (!gpu_text(index_of(d), "uuid", uuid, sizeof uuid))
		snprintf(uuid, sizeof uuid, "GPU-fa4e%04x-0000-4000-8000-000000000000", index_of(d));
	return copy(out, size, uuid);
}

code nvmlDeviceGetName(device d, char *out, unsigned size)
{
	char name[128], full[192];
	ENTER(d);
	if (!gpu_text(index_of(d), "name", name, sizeof name))
		strcpy(name, "NVIDIA H100 80GB HBM3");
	if (slot_of(d) >= 0) {
		struct part p;
		PART(d, &p);
		snprintf(full, sizeof full, "%s MIG %s", name, p.profile);
		return copy(out, size, full);
	}
	return copy(out, size, name);
}

code nvmlDeviceGetIndex(device d, unsigned *out)
{
	ENTER(d);
	*out = index_of(d);
	return OK;
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

/* The driver's samples: six a second, of which it keeps a hundred. */
enum { SAMPLE_EVERY = 166667, SAMPLES_KEPT = 100 };

/*
 * The caller asks for the size first. As NVML may, that answer is larger than
 * what is there: a driver's whole buffer.
 */
code nvmlDeviceGetSamples(device d, int kind, unsigned long long since, int *type, unsigned *count, struct sample *out)
{
	long long newest[SAMPLES_KEPT];
	struct timespec now;
	ENTER(d);
	if (kind != 1) /* the busy share */
		return INVALID_ARGUMENT;
	*type = TYPE_UNSIGNED;
	if (!out) {
		*count = gpu_number(index_of(d), "samples_announced", 120);
		return OK;
	}
	int given = words(index_of(d), "samples", "", newest, SAMPLES_KEPT);
	long util = gpu_number(index_of(d), "util", 0);
	clock_gettime(CLOCK_REALTIME, &now);
	unsigned long long last = (now.tv_sec * 1000000ULL + now.tv_nsec / 1000) / SAMPLE_EVERY;
	unsigned n = 0;
	for (int i = 0; i < SAMPLES_KEPT && n < *count; i++) {
		unsigned long long at = (last - i) * SAMPLE_EVERY;
		if (at > since)
			out[n++] = (struct sample){.at = at, .value.ui = i < given ? newest[given - 1 - i] : util};
	}
	*count = n;
	return n ? OK : NOT_FOUND;
}

static code memory_of(device d, struct memory_v2 *m)
{
	struct part p;
	if (slot_of(d) >= 0) {
		PART(d, &p);
		*m = (struct memory_v2){.total = p.total_mib * MIB, .used = p.used_mib * MIB};
	} else
		*m = (struct memory_v2){
			.total = gpu_number(index_of(d), "mem_total_mib", 81559) * MIB,
			.reserved = gpu_number(index_of(d), "mem_reserved_mib", 0) * MIB,
			.used = gpu_number(index_of(d), "mem_used_mib", 0) * MIB,
		};
	m->free = m->total - m->reserved - m->used;
	return OK;
}

/* The older call counts reserved memory as used. */
code nvmlDeviceGetMemoryInfo(device d, struct memory *out)
{
	struct memory_v2 m;
	ENTER(d);
	code c = memory_of(d, &m);
	if (!c)
		*out = (struct memory){.total = m.total, .free = m.free, .used = m.used + m.reserved};
	return c;
}

code nvmlDeviceGetMemoryInfo_v2(device d, struct memory_v2 *out)
{
	ENTER(d);
	if (out->version != STRUCT_VERSION(struct memory_v2, 2))
		return ARGUMENT_VERSION_MISMATCH;
	unsigned version = out->version;
	code c = memory_of(d, out);
	out->version = version;
	return c;
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

/* parse_procs reads "PID:MIB PID:MIB:GI:CI ..." and returns how many there are. */
static unsigned parse_procs(device d, const char *property, struct process *out)
{
	char text[MAX_LINE], *rest = text, *word;
	unsigned n = 0;
	if (!gpu_text(index_of(d), property, text, sizeof text))
		return 0;
	while (n < MAX_PROCS && (word = strtok_r(rest, " \t", &rest))) {
		char *mib = strchr(word, ':');
		int unknown = !mib || mib[1] == '-';
		struct process p = {
			.pid = strncmp(word, "self", 4) ? strtoul(word, NULL, 10) : (unsigned)getpid(),
			.used = unknown ? ~0ULL : strtoull(mib + 1, NULL, 10) * MIB,
			.gpu_instance = ~0U,
			.compute_instance = ~0U,
		};
		if (mib)
			sscanf(mib + 1, "%*[^:]:%u:%u", &p.gpu_instance, &p.compute_instance);
		out[n++] = p;
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

static code give_procs(device d, const char *property, unsigned *count, struct process *out)
{
	struct process all[MAX_PROCS];
	unsigned n = parse_procs(d, property, all);
	FIT(count, n);
	memcpy(out, all, n * sizeof *out);
	return OK;
}

static code give_procs_v1(device d, const char *property, unsigned *count, struct process_v1 *out)
{
	struct process all[MAX_PROCS];
	unsigned n = parse_procs(d, property, all);
	FIT(count, n);
	for (unsigned i = 0; i < n; i++)
		out[i] = (struct process_v1){.pid = all[i].pid, .used = all[i].used};
	return OK;
}

/* Each in its three versions. */
#define PROCESS_CALLS(name, property)                                      \
	code name##_v3(device d, unsigned *count, struct process *out)     \
	{                                                                  \
		ENTER(d);                                                  \
		return give_procs(d, property, count, out);                \
	}                                                                  \
	code name##_v2(device d, unsigned *count, struct process *out)     \
	{                                                                  \
		ENTER(d);                                                  \
		return give_procs(d, property, count, out);                \
	}                                                                  \
	code name(device d, unsigned *count, struct process_v1 *out)       \
	{                                                                  \
		ENTER(d);                                                  \
		return give_procs_v1(d, property, count, out);             \
	}

PROCESS_CALLS(nvmlDeviceGetComputeRunningProcesses, "procs")
PROCESS_CALLS(nvmlDeviceGetMPSComputeRunningProcesses, "mps_procs")

/* ---- numbers ---- */

/* NUMBER is a call that answers one number of the state file. */
#define NUMBER(name, type, property, otherwise)                            \
	code name(device d, type *out)                                     \
	{                                                                  \
		long long n;                                               \
		ENTER(d);                                                  \
		if (!words(index_of(d), property, otherwise, &n, 1))       \
			return NOT_SUPPORTED;                              \
		*out = n;                                                  \
		return OK;                                                 \
	}

NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, "power_limit_mw", "700000")
NUMBER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, "energy_mj", "0")
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "throttle", "0")
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, "throttle", "0")
NUMBER(nvmlDeviceGetPersistenceMode, int, "persistence", "1")
NUMBER(nvmlDeviceGetPcieReplayCounter, unsigned, "pcie_replays", "0")

code nvmlDeviceGetClockInfo(device d, int kind, unsigned *mhz)
{
	long long n;
	ENTER(d);
	if (kind != 1 && kind != 2) /* of the multiprocessors, of the memory */
		return INVALID_ARGUMENT;
	if (!words(index_of(d), kind == 1 ? "sm_mhz" : "mem_mhz", kind == 1 ? "1980" : "2619", &n, 1))
		return NOT_SUPPORTED;
	*mhz = n;
	return OK;
}

/* field answers one of NVML's numbered fields. */
static void field(int gpu, struct field_value *v)
{
	long long n[3];
	v->result = OK;
	v->type = TYPE_UNSIGNED;
	switch (v->field) {
	case 82: /* temperature of the memory */
		if (words(gpu, "mem_temp", "-", n, 1))
			v->value.ui = n[0];
		else
			v->result = NOT_SUPPORTED;
		return;
	case 230: /* recovery action */
		if (words(gpu, "recovery", "0", n, 1))
			v->value.ui = n[0];
		else
			v->result = NOT_SUPPORTED;
		return;
	case 52: /* NVLink packets that were sent again, of all links; the other three kinds of errors are not there */
		v->type = TYPE_UNSIGNED_LONG_LONG;
		if (words(gpu, "nvlinks", "-", n, 3) == 3)
			v->value.ull = n[2];
		else
			v->result = NOT_SUPPORTED;
		return;
	}
	v->result = NOT_SUPPORTED;
}

code nvmlDeviceGetFieldValues(device d, int count, struct field_value *values)
{
	ENTER(d);
	if (!values || count < 1)
		return INVALID_ARGUMENT;
	for (int i = 0; i < count; i++)
		field(index_of(d), &values[i]);
	return OK;
}

/* ---- memory errors ---- */

/* ecc reads the four counts; it is off if the first is negative. */
static int ecc(device d, long long n[4])
{
	return words(index_of(d), "ecc", "0 0 0 0", n, 4) > 0;
}

code nvmlDeviceGetEccMode(device d, int *current, int *pending)
{
	long long n[4];
	ENTER(d);
	if (!ecc(d, n))
		return NOT_SUPPORTED;
	*current = *pending = n[0] >= 0;
	return OK;
}

code nvmlDeviceGetTotalEccErrors(device d, int kind, int over, unsigned long long *out)
{
	long long n[4];
	ENTER(d);
	if (!ecc(d, n) || n[0] < 0)
		return NOT_SUPPORTED;
	if (kind < 0 || kind > 1 || over < 0 || over > 1)
		return INVALID_ARGUMENT;
	*out = n[kind + 2 * over];
	return OK;
}

code nvmlDeviceGetRemappedRows(device d, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed)
{
	long long n[4];
	ENTER(d);
	if (words(index_of(d), "rows", "0 0 0 0", n, 4) != 4)
		return NOT_SUPPORTED;
	*corrected = n[0];
	*uncorrected = n[1];
	*pending = n[2];
	*failed = n[3];
	return OK;
}

code nvmlDeviceGetRetiredPages(device d, int cause, unsigned *count, unsigned long long *addresses)
{
	long long n[3];
	ENTER(d);
	if (words(index_of(d), "pages", "-", n, 3) != 3)
		return NOT_SUPPORTED;
	if (cause < 0 || cause > 1)
		return INVALID_ARGUMENT;
	FIT(count, (unsigned)n[cause]);
	for (unsigned i = 0; i < *count; i++)
		addresses[i] = 0x1000ULL * (i + 1);
	return OK;
}

code nvmlDeviceGetRetiredPagesPendingStatus(device d, int *pending)
{
	long long n[3];
	ENTER(d);
	if (words(index_of(d), "pages", "-", n, 3) != 3)
		return NOT_SUPPORTED;
	*pending = n[2];
	return OK;
}

/* ---- links ---- */

code nvmlDeviceGetNvLinkState(device d, unsigned link, int *active)
{
	long long n[3];
	ENTER(d);
	if (words(index_of(d), "nvlinks", "-", n, 3) != 3)
		return NOT_SUPPORTED;
	if (link >= n[0])
		return INVALID_ARGUMENT;
	*active = link < n[1];
	return OK;
}

/* give_fabric fills in what all forms of the structure have. */
#define GIVE_FABRIC(d, out)                                               \
	do {                                                              \
		long long n[3] = {0};                                     \
		if (!words(index_of(d), "fabric", "0 0 0", n, 3))         \
			return NOT_SUPPORTED;                             \
		memset((out)->cluster, 0, sizeof (out)->cluster);         \
		(out)->clique = 0;                                        \
		(out)->state = n[0];                                      \
		(out)->status = n[1];                                     \
		health = n[2];                                            \
	} while (0)

code nvmlDeviceGetGpuFabricInfoV(device d, unsigned *version)
{
	unsigned char health;
	ENTER(d);
	if (*version == STRUCT_VERSION(struct fabric_v3, 3)) {
		struct fabric_v3 *out = (struct fabric_v3 *)version;
		GIVE_FABRIC(d, out);
		out->health_mask = 0;
		out->health = health;
		return OK;
	}
	if (*version == STRUCT_VERSION(struct fabric_v2, 2)) {
		struct fabric_v2 *out = (struct fabric_v2 *)version;
		GIVE_FABRIC(d, out);
		out->health_mask = health;
		return OK;
	}
	return ARGUMENT_VERSION_MISMATCH;
}

code nvmlDeviceGetGpuFabricInfo(device d, struct fabric *out)
{
	unsigned char health;
	ENTER(d);
	GIVE_FABRIC(d, out);
	(void)health;
	return OK;
}

/* ---- MIG ---- */

code nvmlDeviceGetMigMode(device d, unsigned *current, unsigned *pending)
{
	long long n;
	ENTER(d);
	if (!words(index_of(d), "mig", "0", &n, 1))
		return NOT_SUPPORTED;
	*current = *pending = n != 0;
	return OK;
}

code nvmlDeviceGetMaxMigDeviceCount(device d, unsigned *out)
{
	ENTER(d);
	*out = MIG_SLOTS;
	return OK;
}

code nvmlDeviceGetMigDeviceHandleByIndex(device d, unsigned slot, device *out)
{
	struct part p;
	ENTER(d);
	if (slot >= MIG_SLOTS)
		return INVALID_ARGUMENT;
	if (!find_part(index_of(d), slot, &p))
		return NOT_FOUND;
	*out = handle(index_of(d), slot);
	return OK;
}

code nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device d, device *out)
{
	ENTER(d);
	if (slot_of(d) < 0)
		return INVALID_ARGUMENT;
	*out = handle(index_of(d), -1);
	return OK;
}

code nvmlDeviceGetGpuInstanceId(device d, unsigned *out)
{
	struct part p;
	ENTER(d);
	PART(d, &p);
	*out = p.gpu_instance;
	return OK;
}

code nvmlDeviceGetComputeInstanceId(device d, unsigned *out)
{
	struct part p;
	ENTER(d);
	PART(d, &p);
	*out = p.compute_instance;
	return OK;
}

/* ---- events ---- */

struct event_set {
	int news;                           /* descriptor that can be read when a file was put beside the state file */
	char seen[32];                      /* serial number of the last event */
	_Atomic unsigned long long types[MAX_GPUS]; /* that are waited for, by GPU */
};

enum { ALL_EVENTS = 0xff9f };

/* read_event reads the state's event, and returns its serial number, "" if there is none. */
static const char *read_event(char serial[32], unsigned *gpu, unsigned long long *type, unsigned long long *data)
{
	char text[128];
	serial[0] = '\0';
	if (find("event", text, sizeof text) && sscanf(text, "%31s %u %llu %llu", serial, gpu, type, data) != 4)
		serial[0] = '\0';
	return serial;
}

/* watch returns a descriptor that can be read when a file was renamed into the
 * state file's folder, or a negative number. */
static int watch(void)
{
	const char *path = getenv("FAKE_NVML_FILE"), *name = path ? strrchr(path, '/') : NULL;
	char folder[PATH_MAX] = ".";
	if (name)
		snprintf(folder, sizeof folder, "%.*s", (int)(name - path) + 1, path);
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (fd >= 0 && inotify_add_watch(fd, folder, IN_MOVED_TO) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* await returns when a file was renamed into the state file's folder, or after
 * so many milliseconds, and says how many they were: 20 at a time if the folder
 * cannot be watched. */
static unsigned await(event_set set, unsigned ms)
{
	char rest[4096];
	struct timespec from, to;
	struct pollfd news = {.fd = set->news, .events = POLLIN};
	clock_gettime(CLOCK_MONOTONIC, &from);
	if (poll(&news, 1, set->news >= 0 || ms < 20 ? (int)ms : 20) > 0)
		while (read(set->news, rest, sizeof rest) > 0)
			;
	clock_gettime(CLOCK_MONOTONIC, &to);
	return (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000;
}

code nvmlEventSetCreate(event_set *out)
{
	unsigned gpu;
	unsigned long long type, data;
	begin(__func__, -1);
	if (!users)
		return UNINITIALIZED;
	if (!(*out = calloc(1, sizeof **out)))
		return INSUFFICIENT_SIZE;
	(*out)->news = watch();
	read_event((*out)->seen, &gpu, &type, &data); /* one that was there before is not new */
	return OK;
}

code nvmlEventSetFree(event_set set)
{
	begin(__func__, -1);
	if (set->news >= 0)
		close(set->news);
	free(set);
	return OK;
}

code nvmlDeviceGetSupportedEventTypes(device d, unsigned long long *out)
{
	ENTER(d);
	*out = ALL_EVENTS;
	return OK;
}

code nvmlDeviceRegisterEvents(device d, unsigned long long types, event_set set)
{
	ENTER(d);
	if (types & ~(unsigned long long)ALL_EVENTS || slot_of(d) >= 0)
		return INVALID_ARGUMENT;
	set->types[index_of(d)] |= types;
	return OK;
}

code nvmlEventSetWait_v2(event_set set, struct event_data *out, unsigned ms)
{
	char serial[32];
	unsigned gpu, waited = 0;
	unsigned long long type, data;
	begin(__func__, -1);
	if (!users)
		return UNINITIALIZED;
	code err = number("err.nvmlEventSetWait_v2", 0);
	if (err)
		return err;
	for (;;) {
		hang("events_hang_ms");
		if (*read_event(serial, &gpu, &type, &data) && strcmp(serial, set->seen)) {
			strcpy(set->seen, serial);
			if (gpu < MAX_GPUS && set->types[gpu] & type)
				break;
		}
		if (waited >= ms)
			return TIMED_OUT;
		waited += await(set, ms - waited);
		load();
	}
	*out = (struct event_data){.device = handle(gpu, -1), .type = type, .data = data,
				   .gpu_instance = ~0U, .compute_instance = ~0U};
	return OK;
}

code nvmlEventSetWait(event_set set, struct event_data *out, unsigned ms) { return nvmlEventSetWait_v2(set, out, ms); }

/* ---- performance monitors ---- */

static const struct monitor {
	unsigned id;
	const char *property;
} monitors[] = {{1, "graphics"}, {2, "sm"}, {3, "occupancy"}, {5, "tensor"}, {10, "dram"}};

enum { MONITORS = sizeof monitors / sizeof *monitors };

struct gpm_sample {
	int gpu, instance; /* instance is -1 for the whole GPU */
	int taken;
	int there[MONITORS];
	double percent[MONITORS];
};

code nvmlGpmQueryDeviceSupport(device d, struct gpm_support *out)
{
	ENTER(d);
	if (out->version != 1)
		return ARGUMENT_VERSION_MISMATCH;
	out->supported = gpu_number(index_of(d), "gpm", 1) != 0;
	return OK;
}

code nvmlGpmSampleAlloc(gpm_sample *out)
{
	begin(__func__, -1);
	*out = calloc(1, sizeof **out);
	return *out ? OK : INSUFFICIENT_SIZE;
}

code nvmlGpmSampleFree(gpm_sample s)
{
	begin(__func__, -1);
	free(s);
	return OK;
}

/* take reads what the monitors say now. */
static code take(device d, int instance, gpm_sample s)
{
	char property[64], prefix[16] = "gpm";
	if (!gpu_number(index_of(d), "gpm", 1))
		return NOT_SUPPORTED;
	if (instance >= 0)
		snprintf(prefix, sizeof prefix, "gi%d", instance);
	*s = (struct gpm_sample){.gpu = index_of(d), .instance = instance, .taken = 1};
	for (int i = 0; i < MONITORS; i++) {
		long long percent;
		snprintf(property, sizeof property, "%s.%s", prefix, monitors[i].property);
		if ((s->there[i] = words(index_of(d), property, "0", &percent, 1)))
			s->percent[i] = percent;
	}
	return OK;
}

code nvmlGpmSampleGet(device d, gpm_sample s)
{
	ENTER(d);
	return take(d, -1, s);
}

code nvmlGpmMigSampleGet(device d, unsigned instance, gpm_sample s)
{
	ENTER(d);
	return take(d, instance, s);
}

static void measure(gpm_sample s, struct gpm_metric *m)
{
	m->result = NOT_SUPPORTED;
	for (int i = 0; i < MONITORS; i++)
		if (monitors[i].id == m->id && s->there[i]) {
			m->result = OK;
			m->value = s->percent[i];
		}
}

/* The answer is what the second sample says; both must be of the same GPU and instance. */
code nvmlGpmMetricsGet(struct gpm_metrics *m)
{
	begin(__func__, -1);
	if (m->version != 1)
		return ARGUMENT_VERSION_MISMATCH;
	if (!m->first || !m->second || !m->first->taken || !m->second->taken || m->first->gpu != m->second->gpu ||
	    m->first->instance != m->second->instance)
		return INVALID_ARGUMENT;
	for (unsigned i = 0; i < m->count; i++)
		measure(m->second, &m->metrics[i]);
	return OK;
}
