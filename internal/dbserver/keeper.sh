# Waits until standard input ends, then ends the server of $1 with signal $2 and removes $1.
read -r _
exec 2>/dev/null
if read -r pid < "$1/pid"; then
	kill "-$2" "$pid"
	tries=0
	while kill -0 "$pid" && [ $tries -lt 200 ]; do
		sleep 0.05
		tries=$((tries + 1))
	done
	kill -KILL "$pid"
fi
# What fills the folder when its parent is killed goes on for a moment.
tries=0
until rm -rf "$1" || [ $tries -eq 200 ]; do
	sleep 0.05
	tries=$((tries + 1))
done
