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
	INSUFFICIENT_SIZE = 7,
	DRIVER_NOT_LOADED = 9,
	GPU_IS_LOST = 15,
	ARGUMENT_VERSION_MISMATCH = 25,
};

typedef int code;
typedef struct gpu *device; /* opaque to the caller: the index plus one */

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

#endif
