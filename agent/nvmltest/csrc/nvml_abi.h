/*
 * The part of NVML's binary interface that the fake library answers, declared
 * by hand: return codes, structures and their order of fields. A test in
 * agent/nvml compares sizes and offsets with those of go-nvml.
 */
#ifndef NVML_ABI_H
#define NVML_ABI_H

enum {
	OK = 0,
	UNINITIALIZED = 1,
	INVALID_ARGUMENT = 2,
	NOT_SUPPORTED = 3,
	NOT_FOUND = 6,
	INSUFFICIENT_SIZE = 7,
	DRIVER_NOT_LOADED = 9,
	TIMED_OUT = 10,
	GPU_IS_LOST = 15,
	ARGUMENT_VERSION_MISMATCH = 25,
};

typedef int code;
typedef struct gpu *device; /* opaque to the caller: see handle() */
typedef struct event_set *event_set;
typedef struct gpm_sample *gpm_sample;

/* A versioned structure carries its own size and its version. */
#define STRUCT_VERSION(type, v) ((unsigned)(sizeof(type) | ((unsigned)(v) << 24)))

struct pci_info {
	char bus_id_legacy[16];
	unsigned domain, bus, device;
	unsigned pci_device_id, pci_subsystem_id;
	char bus_id[32];
};

struct utilization {
	unsigned gpu, memory; /* percent */
};

struct memory {
	unsigned long long total, free, used; /* bytes */
};

struct memory_v2 {
	unsigned version;
	unsigned long long total, reserved, free, used; /* bytes */
};

struct process_v1 {
	unsigned pid;
	unsigned long long used; /* bytes */
};

struct process {
	unsigned pid;
	unsigned long long used; /* bytes */
	unsigned gpu_instance, compute_instance;
};

struct temperature {
	unsigned version;
	unsigned sensor;
	int temperature; /* degrees Celsius */
};

union value {
	double d;
	unsigned ui;
	unsigned long long ull;
};

enum { TYPE_DOUBLE = 0, TYPE_UNSIGNED = 1, TYPE_UNSIGNED_LONG_LONG = 3 };

struct sample {
	unsigned long long at; /* microseconds */
	union value value;
};

struct field_value {
	unsigned field, scope;
	long long at, latency; /* microseconds */
	unsigned type;
	code result;
	union value value;
};

struct event_data {
	device device;
	unsigned long long type, data;
	unsigned gpu_instance, compute_instance;
};

struct fabric {
	unsigned char cluster[16];
	code status;
	unsigned clique;
	unsigned char state;
};

struct fabric_v2 {
	unsigned version;
	unsigned char cluster[16];
	code status;
	unsigned clique;
	unsigned char state;
	unsigned health_mask;
};

struct fabric_v3 {
	unsigned version;
	unsigned char cluster[16];
	code status;
	unsigned clique;
	unsigned char state;
	unsigned health_mask;
	unsigned char health;
};

struct gpm_support {
	unsigned version, supported;
};

struct gpm_metric {
	unsigned id;
	code result;
	double value;
	struct {
		char *short_name, *long_name, *unit;
	} info;
};

/* Callers announce how many metrics they want; the array is as long as the
 * newest of them has it. */
struct gpm_metrics {
	unsigned version, count;
	gpm_sample first, second;
	struct gpm_metric metrics[477];
};

#endif
