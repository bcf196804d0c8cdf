/* Prints the size of each structure and the offset of each field. */
#include <stddef.h>
#include <stdio.h>

#include "nvml_abi.h"

#define SIZE(s) printf("%s %zu\n", #s, sizeof(struct s))
#define AT(s, f) printf("%s.%s %zu\n", #s, #f, offsetof(struct s, f))

int main(void)
{
	SIZE(pci_info);
	AT(pci_info, bus_id_legacy);
	AT(pci_info, domain);
	AT(pci_info, bus);
	AT(pci_info, device);
	AT(pci_info, pci_device_id);
	AT(pci_info, pci_subsystem_id);
	AT(pci_info, bus_id);
	SIZE(utilization);
	AT(utilization, gpu);
	AT(utilization, memory);
	SIZE(memory);
	AT(memory, total);
	AT(memory, free);
	AT(memory, used);
	SIZE(memory_v2);
	AT(memory_v2, version);
	AT(memory_v2, total);
	AT(memory_v2, reserved);
	AT(memory_v2, free);
	AT(memory_v2, used);
	SIZE(process_v1);
	AT(process_v1, pid);
	AT(process_v1, used);
	SIZE(process);
	AT(process, pid);
	AT(process, used);
	AT(process, gpu_instance);
	AT(process, compute_instance);
	SIZE(temperature);
	AT(temperature, version);
	AT(temperature, sensor);
	AT(temperature, temperature);
	return 0;
}
