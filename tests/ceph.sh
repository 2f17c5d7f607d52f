#!/bin/sh
# A Ceph cluster of one in memory and its S3 gateway, in the root that `make ceph` made: monitor, one OSD, gateway.
# ceph.sh install ROOT; ceph.sh run ROOT MONITOR_PORT S3_PORT, which ends with all that it started when it is killed.
set -eu
what=$1 root=$2
shift 2

alone="unshare --mount --pid --fork --kill-child"

install() {
    [ -e "$root/installed" ] && return
    rm -rf "$root"
    # Not with --include: debootstrap cannot unpack systemd, which Ceph's packages want, in one go.
    debootstrap --variant=minbase sid "$root" http://deb.debian.org/debian
    mkdir "$root/data"
    # Nothing is started here.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
    DEBIAN_FRONTEND=noninteractive $alone "$0" within "$root" \
        apt-get install -y -q --no-install-recommends ceph-mon ceph-osd radosgw
    rm -f "$root"/var/cache/apt/archives/*.deb
    touch "$root/installed"
}

within() {
    mount -t proc proc "$root/proc"
    mount --bind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/tmp"
    mount -t tmpfs -o size=2g tmpfs "$root/data"
    cp "$0" "$root/tmp/ceph.sh"
    exec chroot "$root" "$@"
}

inside() {
    monitor=$1 gateway=$2
    export HOME=/root LC_ALL=C.UTF-8
    cd /data
    mkdir mon osd gateway run
    cat >ceph.conf <<END
[global]
fsid = 11111111-2222-3333-4444-555555555555
mon host = [v2:127.0.0.1:$monitor]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc secure
mon data = /data/mon
osd data = /data/osd
rgw data = /data/gateway
run dir = /data/run
admin socket = /data/run/\$name.asok
pid file =
log file = /data/\$name.log
osd objectstore = memstore
memstore device bytes = 4294967296
osd class dir = /usr/lib/x86_64-linux-gnu/rados-classes
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
rgw frontends = beast endpoint=127.0.0.1:$gateway tcp_nodelay=1
rgw enable usage log = false
END
    export CEPH_CONF=/data/ceph.conf
    monmaptool --create --fsid 11111111-2222-3333-4444-555555555555 --addv a "[v2:127.0.0.1:$monitor]" monmap
    ceph-mon --mkfs -i a --monmap monmap
    ceph-mon -f -i a &
    ceph osd new 99999999-2222-3333-4444-555555555555
    ceph-osd --mkfs -i 0 --osd-uuid 99999999-2222-3333-4444-555555555555
    ceph-osd -f -i 0 &
    radosgw-admin user create --uid=testing --display-name=testing --access-key=testing --secret-key=testing
    exec radosgw -f -n client.gateway
}

case $what in
install) install ;;
within) within "$@" ;;
run) exec $alone "$0" within "$root" /bin/sh /tmp/ceph.sh inside / "$@" ;;
inside) inside "$@" ;;
esac
