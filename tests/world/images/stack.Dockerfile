# A VPS with the Sylion stack's files in their place.
ARG BASE
FROM ${BASE}
COPY . /srv/sylion/
RUN mkdir -p /srv/sylion/backups/postgres && chmod 755 /srv/sylion/scripts/*.sh
