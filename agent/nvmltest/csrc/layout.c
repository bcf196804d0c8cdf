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
	SIZE(sample);
	AT(sample, at);
	AT(sample, value);
	SIZE(field_value);
	AT(field_value, field);
	AT(field_value, scope);
	AT(field_value, at);
	AT(field_value, latency);
	AT(field_value, type);
	AT(field_value, result);
	AT(field_value, value);
	SIZE(event_data);
	AT(event_data, device);
	AT(event_data, type);
	AT(event_data, data);
	AT(event_data, gpu_instance);
	AT(event_data, compute_instance);
	SIZE(fabric);
	AT(fabric, cluster);
	AT(fabric, status);
	AT(fabric, clique);
	AT(fabric, state);
	SIZE(fabric_v2);
	AT(fabric_v2, version);
	AT(fabric_v2, cluster);
	AT(fabric_v2, status);
	AT(fabric_v2, clique);
	AT(fabric_v2, state);
	AT(fabric_v2, health_mask);
	SIZE(fabric_v3);
	AT(fabric_v3, version);
	AT(fabric_v3, cluster);
	AT(fabric_v3, status);
	AT(fabric_v3, clique);
	AT(fabric_v3, state);
	AT(fabric_v3, health_mask);
	AT(fabric_v3, health);
	SIZE(gpm_support);
	AT(gpm_support, version);
	AT(gpm_support, supported);
	SIZE(gpm_metric);
	AT(gpm_metric, id);
	AT(gpm_metric, result);
	AT(gpm_metric, value);
	AT(gpm_metric, info);
	SIZE(gpm_metrics);
	AT(gpm_metrics, version);
	AT(gpm_metrics, count);
	AT(gpm_metrics, first);
	AT(gpm_metrics, second);
	AT(gpm_metrics, metrics);
	return 0;
}
