#!/bin/sh
# A power controller for tests:
#   controller.sh ACTION DIR     with the request as JSON on standard input
# DIR holds the chassis ("power": on or off), a line for each change carried
# out ("executed"), for each login ("logins") and for each run's arguments
# ("argv"), and shell text that breaks it ("fault").
action=$1
dir=$2
request=$(cat)
tr '\0' '\n' <"/proc/$$/cmdline" >>"$dir/argv"

echo "$action" >>"$dir/logins"
case $request in
*'"password":"command-Pass1"'*) ;;
*)
	echo "login failed for $request" >&2
	exit 77
	;;
esac
case $request in
*'"action":"'"$action"'"'*) ;;
*)
	echo "asked for $request, run for $action" >&2
	exit 1
	;;
esac

. "$dir/fault"

change() {
	before_change "$action"
	echo "$1" >"$dir/.power" && mv "$dir/.power" "$dir/power"
	echo "$action" >>"$dir/executed"
	after_change
}

case $action in
state) cat "$dir/power" ;;
on) change on ;;
off_soft | off_hard) change off ;;
*) exit 3 ;;
esac
