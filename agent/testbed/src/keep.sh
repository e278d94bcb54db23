# Runs a program until this script's standard input ends, which it does however the process that holds its other end dies.
# Prints the program's process id; ends with the program's status.
#
#   sh -c "$(cat keep.sh)" keep LOG TENTHS PROGRAM [ARGUMENT...]    TENTHS of a second from SIGTERM to SIGKILL
log=$1
tenths=$2
shift 2
exec 3<&0
"$@" </dev/null >>"$log" 2>&1 3<&- &
child=$!
echo "$child"
exec >/dev/null 2>&1
{
    read -r _ <&3
    kill -TERM "$child"
    while [ "$tenths" -gt 0 ] && kill -0 "$child"; do
        sleep 0.1
        tenths=$((tenths - 1))
    done
    kill -KILL "$child"
} &
watcher=$!
wait "$child"
status=$?
kill "$watcher"
exit "$status"
