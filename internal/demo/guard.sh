# Waits until standard input ends, then ends the sidecar whose process id is in $1/pid and removes $1.
read -r _
if read -r pid < "$1/pid"; then
	kill -KILL "$pid"
fi 2>/dev/null
rm -rf "$1"
