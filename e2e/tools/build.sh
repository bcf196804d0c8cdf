#!/usr/bin/env bash
# build.sh [NAME...] makes the programs that the end-to-end tests and the demo
# run: consul, nomad, nomad-autoscaler and gpupool-device-fake, or those named.
# On standard output it prints one line for each, its name, a tab and its path;
# what it does meanwhile goes to standard error.
#
# A program is taken from PATH if it has the pinned version, else from the cache
# ($GPUPOOL_TOOLS, else gpupool/tools in the user's cache directory, as
# NAME-VERSION/NAME), else it is built into the cache. The versions are pinned
# by the go.mod files beside this script and nowhere else; to move one, edit
# its line, run `go build -mod=mod` there as below with
# GONOSUMDB=github.com/hashicorp/consul/* (Consul's sub-modules have no entry in
# the checksum database), and commit go.mod and go.sum.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${GPUPOOL_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/gpupool/tools}

say() { printf '%s\n' "tools: $*" >&2; }
die() { say "$*"; exit 1; }

# pinned MODULE DIR prints the version that DIR/go.mod requires, without its v.
pinned() {
	awk -v m="$1" '$1 == "require" && $2 == m { sub(/^v/, "", $3); print $3; found = 1 } END { exit !found }' "$here/$2/go.mod" ||
		die "$here/$2/go.mod: no 'require $1 VERSION' line"
}

# on_path NAME VERSION prints where PATH has NAME, if it is of VERSION. What
# `go build` makes of a release calls itself VERSION-dev.
on_path() {
	local path said
	path=$(command -v "$1") || return 1
	said=$(timeout 10 "$path" version 2>/dev/null | head -n 1) || return 1
	[[ "$said " == *" v$2 "* || "$said " == *" v$2-dev "* ]] || return 1
	printf '%s' "$path"
}

# build NAME DIR PACKAGE TARGET builds PACKAGE of the module in DIR as TARGET,
# which appears complete or not at all.
build() {
	local name=$1 dir=$2 package=$3 target=$4 tmp began=$SECONDS next=15 status=0 job
	tmp=$(mktemp -d "$cache/.build-$name.XXXXXX")
	# GOWORK and GOFLAGS of the caller must not reach these modules.
	(cd "$here/$dir" && exec env GOWORK=off GOFLAGS=-buildvcs=false go build -mod=readonly -trimpath -o "$tmp/$name" "$package") \
		>"$tmp/log" 2>&1 &
	job=$!
	# Interrupted, leave neither the compiler nor half a build behind.
	trap 'kill "$job" 2>/dev/null || true; rm -rf "$tmp"; exit 130' INT TERM
	while kill -0 "$job" 2>/dev/null; do
		sleep 1
		if ((SECONDS - began >= next)); then
			say "$name: building for $((SECONDS - began)) s"
			next=$((SECONDS - began + 15))
		fi
	done
	wait "$job" || status=$?
	trap - INT TERM
	if ((status != 0)); then
		grep -v '^go: downloading' "$tmp/log" | tail -n 20 >&2 || true
		rm -rf "$tmp"
		die "$name: go build in $here/$dir failed (exit $status) after $((SECONDS - began)) s"
	fi
	rm "$tmp/log"
	chmod 755 "$tmp"
	rm -rf "$target"
	mv -T "$tmp" "$target"
	say "$name: built in $((SECONDS - began)) s"
}

# provide NAME VERSION DIR PACKAGE FIRST prints NAME's line, having built it
# where need be. FIRST says how long a first build takes.
provide() {
	local name=$1 version=$2 dir=$3 package=$4 first=$5 target
	target=$cache/$name-$version
	if path=$(on_path "$name" "$version"); then
		printf '%s\t%s\n' "$name" "$path"
		return
	fi
	if [[ ! -x $target/$name ]]; then
		command -v go >/dev/null || die "$name $version: not on PATH, not in $cache, and no Go to build it with: install Go 1.26 or newer"
		mkdir -p "$cache"
		# Two runs at once: the second waits and finds what the first built.
		exec 9>"$cache/.lock-$name"
		flock -n 9 || { say "$name $version: waiting for another build"; flock 9; }
		if [[ ! -x $target/$name ]]; then
			say "$name $version: building into $target ($first)"
			build "$name" "$dir" "$package" "$target" 9>&-
		fi
		exec 9>&-
	fi
	printf '%s\t%s\n' "$name" "$target/$name"
}

# of_source prints a version for gpupool-device-fake: a hash of what it is made of.
of_source() {
	(cd "$here/nomad" && cat go.mod go.sum gpupool-device-fake/*.go | sha256sum | cut -c 1-12)
}

one() {
	case $1 in
	consul) provide consul "$(pinned github.com/hashicorp/consul consul)" consul github.com/hashicorp/consul "5 minutes at first, on two cores" ;;
	nomad) provide nomad "$(pinned github.com/hashicorp/nomad nomad)" nomad github.com/hashicorp/nomad "4 minutes at first, on two cores" ;;
	nomad-autoscaler) provide nomad-autoscaler "$(pinned github.com/hashicorp/nomad-autoscaler autoscaler)" autoscaler github.com/hashicorp/nomad-autoscaler "2 minutes at first, on two cores" ;;
	gpupool-device-fake) provide gpupool-device-fake "$(of_source)" nomad ./gpupool-device-fake "seconds, after nomad" ;;
	*) die "no tool $1: there are consul, nomad, nomad-autoscaler and gpupool-device-fake" ;;
	esac
}

(($#)) || set -- nomad-autoscaler nomad gpupool-device-fake consul
for tool; do one "$tool"; done
