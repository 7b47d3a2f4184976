# For tests/systemd and tests/package, which source it: a machine whose init is a real systemd, in
# namespaces of its own. Nothing of the machine that it runs on is touched, and no network but the
# loopback interface is in it.
#
# The sourcing script sets `work`, a directory of its own, and defines `die`.

# boot [ROOT]: starts systemd on the directory ROOT or, without it, on a copy of this machine's files
# that lives in memory (overlayfs). Sets `init`, its process id, and `root`, where its files are seen.
boot() {
    mkdir -p "$work/memory" "$work/root"
    # Its log goes to the console, which is a file here.
    unshare --pid --fork --mount --uts --ipc --net --cgroup --kill-child \
        bash -euo pipefail -c "$(declare -f boot_inside); boot_inside '$work' '${1:-}'" \
        > "$work/console" 2>&1 &
    until init=$(pgrep -P $! -x systemd) && inside systemctl is-system-running > /dev/null 2>&1; do
        kill -0 $! 2> /dev/null || die "systemd cannot be started here"
        waited
    done
    root=/proc/$init/root
    echo "booted: $(inside systemctl --version | head -1)"
}

boot_inside() {
    root=$1/root
    mount --make-rprivate /
    if [ -n "$2" ]; then
        mount --bind "$2" "$root"
    else
        mount -t tmpfs tmpfs "$1/memory"
        mkdir "$1/memory/upper" "$1/memory/work"
        mount -t overlay overlay -o "lowerdir=/,upperdir=$1/memory/upper,workdir=$1/memory/work" "$root"
    fi
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount -t tmpfs tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/tmp"
    mount --rbind /dev "$root/dev"
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    else
        mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
        mkdir "$root/sys/fs/cgroup/systemd" "$root/sys/fs/cgroup/unified"
        mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
        mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified" || true
    fi
    # None of the machine's services.
    rm -rf "$root"/etc/systemd/system/*.wants
    printf '[Unit]\nAllowIsolate=yes\n' > "$root/etc/systemd/system/nothing.target"
    export container=other
    exec chroot "$root" /lib/systemd/systemd --system --unit=nothing.target \
        --log-target=console --show-status=false
}

# Ends the machine, and everything in it.
shut_down() {
    if [ -n "$init" ]; then kill -KILL "$init" 2> /dev/null || true; fi
    wait 2> /dev/null || true
}

# Runs a command in the machine.
inside() {
    local root=/proc/$init/root
    # Without the variables of this shell: dripline reads some.
    nsenter -t "$init" -m -p -u -i -n -C --root="$root" --wd="$root" \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 timeout "${limit:-60}" "$@"
}

# A property of the service.
show() {
    inside systemctl show dripline --property "$1" --value
}

until_status() {
    until [ "$(show StatusText)" = "$1" ]; do waited; done
}

# make_pair HOST KEY CERTIFICATE: as root makes them, so nobody else can read the key.
make_pair() {
    inside sh -ec 'umask 077; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
        -subj "/CN=$1" -addext "subjectAltName=DNS:$1" -keyout "$2" -out "$3" 2> /dev/null' sh "$@"
}

# For loops; what waits that long waits in vain.
waited() {
    [ $SECONDS -lt "${latest:-180}" ] || die "took too long"
    sleep 0.1
}
