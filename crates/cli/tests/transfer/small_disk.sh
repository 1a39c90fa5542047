# Runs in a mount namespace of its own: small_disk.sh DISK OUT COMMAND...
#
# The command twice, on a disk of SMALL_DISK bytes (1m) and with what it left there on a larger one, and what
# it left each time in OUT.
set -eu
disk=$1 out=$2
shift 2
mkdir -p "$disk" "$out"
mount -t tmpfs -o "size=${SMALL_DISK:-1m}" tmpfs "$disk"
for run in full grown; do
  code=0
  "$@" >"$out/$run.stdout" 2>"$out/$run.stderr" || code=$?
  echo "$code" >"$out/$run.code"
  cp -a "$disk" "$out/$run.disk"
  umount "$disk"
  mount -t tmpfs -o size=64m tmpfs "$disk"
  cp -a "$out/$run.disk/." "$disk"
done
