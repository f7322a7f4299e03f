# shellcheck shell=bash
# Puts the machine itself back: mounts, firewall, nginx, Docker, ssh, the stack's files.

same() { diff -rq "$PRISTINE$1" "$1" >/dev/null 2>&1; }

# What a full disk or a busy processor was made with.
systemctl stop 'world-*' 2>/dev/null || true
restore_disk

if ! same /etc/ufw || ! ufw status | grep -q 'Status: active'; then
    rm -rf /etc/ufw
    cp -a "$PRISTINE/etc/ufw" /etc/
    ufw --force enable
    ufw reload
fi
rm -rf /etc/nginx "$STACK"
cp -a "$PRISTINE/etc/nginx" /etc/
cp -a "$PRISTINE/srv/sylion" "$STACK"

# Enabling costs seconds, since these units have init scripts too; it is rarely needed.
for unit in nginx docker ssh ufw; do
    systemctl is-enabled -q "$unit" && continue
    systemctl unmask -q "$unit"
    systemctl enable -q "$unit"
done
systemctl reset-failed
start_docker
systemctl start ssh
nginx -t
# The errors of a fault that is over would be evidence of the next.
rm -f /var/log/nginx/*.log*
systemctl restart nginx
