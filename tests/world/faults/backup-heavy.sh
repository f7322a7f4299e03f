# shellcheck shell=bash
# The backup runs in the middle of the day and keeps the disk busy.
# expect: deep runbook=high-load cause=heavy_job remedy=defer_job
break_it() {
    cat >/usr/local/sbin/world_backup.sh <<'SCRIPT'
#!/bin/bash
# Copies until it is stopped, and waits for the disk after every block, as a dump on a slow volume does.
copy() { while :; do dd if=/dev/zero of="/var/lib/docker/world-backup-$1" bs=1M count=32 oflag=sync conv=notrunc status=none; done; }
for n in 1 2 3 4; do copy "$n" & done
wait
SCRIPT
    chmod +x /usr/local/sbin/world_backup.sh
    # The bandwidth is what a small plan has; the machine underneath is fast, and others work on it.
    printf '[Service]\nExecStart=/usr/local/sbin/world_backup.sh\nBlockIOWriteBandwidth=/var/lib/docker 6M\n' >/etc/systemd/system/backup.service
    printf '[Timer]\nOnCalendar=*-*-* *:00/30:00\n[Install]\nWantedBy=timers.target\n' >/etc/systemd/system/backup.timer
    systemctl daemon-reload
    systemctl start backup.timer backup.service
    sleep 4
}
cure_it() {
    systemctl stop vigie-resume-backup.timer 2>/dev/null || true
    systemctl stop backup.timer backup.service
    rm -f /etc/systemd/system/backup.{service,timer} /usr/local/sbin/world_backup.sh /var/lib/docker/world-backup-* /run/vigie/deferred/vigie-resume-backup
    systemctl daemon-reload
}
