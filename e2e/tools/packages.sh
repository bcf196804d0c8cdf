#!/usr/bin/env bash
# packages.sh [test|bench|r] installs the Debian packages that the demo needs, if
# they are missing: a BMC simulator, an independent IPMI client and a C compiler
# for the agent and the fake NVML library. With `test`, also what only tests use;
# with `bench`, the peers that benchmarks compare with as well. With `r`, R and
# its forecast package, and nothing else.
set -euo pipefail

say() { printf '%s\n' "packages: $*" >&2; }

# What is needed is programs; they may have come another way.
declare -A package=([ipmi_sim]=openipmi [ipmitool]=ipmitool [flock]=util-linux [gcc]=gcc)
tests=${1-}
if [[ $tests == r ]]; then
	package=([Rscript]=r-base-core)
fi
if [[ $tests == bench ]]; then
	tests=test
	package[ipmipower]=freeipmi-tools # reads the power of racks
fi
if [[ $tests == test ]]; then
	package[chromium]=chromium       # looks at the simulator's report
	package[ip]=iproute2             # lays the wire for Wake-on-LAN
	package[redfishtool]=redfishtool # drives the Redfish simulator, as python3-sushy does
	# Queue servers, which tests start by themselves.
	package[nats-server]=nats-server
	package[prometheus]=prometheus
	package[rabbitmq-server]=rabbitmq-server
	package[redis-server]=redis-server
fi
missing=()
for program in "${!package[@]}"; do
	PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
if [[ $tests == r ]]; then
	Rscript -e 'quit(status = !requireNamespace("forecast", quietly = TRUE))' >/dev/null 2>&1 || missing+=(r-cran-forecast)
elif ! echo '#include <stdio.h>' | "${CC:-gcc}" -E - >/dev/null 2>&1; then
	missing+=(libc6-dev)
fi
if [[ $tests == test ]] && ! /usr/bin/python3 -c 'import sushy' 2>/dev/null; then
	missing+=(python3-sushy)
fi
if [[ $tests == test ]] && ! command -v postgres >/dev/null && ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
	missing+=(postgresql)
fi
((${#missing[@]})) || exit 0

if ! command -v apt-get >/dev/null; then
	say "missing: ${missing[*]} (Debian's names), and there is no apt-get here: install them by hand"
	exit 1
fi
as_root=()
if ((EUID != 0)); then
	if ! command -v sudo >/dev/null; then
		say "missing: ${missing[*]}; run as root: apt-get install ${missing[*]}"
		exit 1
	fi
	as_root=(sudo)
fi
say "installing ${missing[*]} (half a minute to two minutes)"
export DEBIAN_FRONTEND=noninteractive
install() { "${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" >&2; }

# Debian starts the servers of packages, now and at each boot. Those that come
# by this script are for tests: none may listen on this machine.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
	printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
	"${as_root[@]}" chmod 755 "$policy"
	trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
# The lists of a fresh machine are empty; those of an old one are stale.
install || { "${as_root[@]}" apt-get update -q >&2 && install; }
units=()
for p in "${missing[@]}"; do
	case $p in
	rabbitmq-server) units+=(rabbitmq-server.service epmd.socket epmd.service) ;;
	nats-server | postgresql | prometheus | redis-server) units+=("$p.service") ;;
	esac
done
if ((${#units[@]})) && command -v systemctl >/dev/null; then
	for u in "${units[@]}"; do
		"${as_root[@]}" systemctl disable "$u" >/dev/null 2>&1 || true # not every release has each
	done
fi
