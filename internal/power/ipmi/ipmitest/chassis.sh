#!/bin/sh
# The chassis of a simulated BMC, as ipmi_sim's chassis_control calls it:
#   chassis.sh DIR get power...            prints power:1 or power:0
#   chassis.sh DIR set power 1|0...        powers on or off
#   chassis.sh DIR set shutdown 1...       soft-off
# ipmi_sim waits for it and serves nobody meanwhile, like a busy BMC.
dir=$1
op=$2
shift 2

case $op in
get)
	for what in "$@"; do
		case $what in
		power) echo "power:$(cat "$dir/power")" ;;
		boot) echo boot:default ;;
		*) echo "unknown parameter $what" && exit 1 ;;
		esac
	done
	;;
set)
	. "$dir/fault"
	while [ $# -ge 2 ]; do
		case $1 in
		power) power=$2 ;;
		shutdown) power=0 ;;
		*) echo "unknown parameter $1" && exit 1 ;;
		esac
		[ "$1 $2 $(cat "$dir/power")" = "power 1 1" ] && shift 2 && continue
		echo "$power" >"$dir/.power.$$" && mv "$dir/.power.$$" "$dir/power"
		echo "$1 $2" >>"$dir/executed"
		shift 2
	done
	;;
*)
	exit 1
	;;
esac
