"""Stands in for the Sylion backend: real checks, workers that take real jobs, and logs that look like its own."""

import base64
import json
import os
import re
import signal
import sys
import threading
import time
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2
import redis

VERSION = "1.4.2"
REQUIRED = ["DATABASE_URL", "REDIS_URL", "JWT_SECRET", "ENCRYPTION_KEY", "WHATSAPP_VERIFY_TOKEN"]
EMBEDDING_CACHE_MB = 32
QUEUE = "rag:index-document"
QUEUES = [QUEUE, "whatsapp:incoming"]
# One job after the other, as a worker with a concurrency of 1 does.
JOB_SECONDS = 0.05
LOCK_MS = 30000

# Set by SIGUSR1: requests are accepted and never answered, as when every
# connection of a pool is taken and none is given back.
stuck = threading.Event()
# Set by SIGUSR2: the workers close, and the rest goes on, as when a worker's process has died.
idle = threading.Event()


def log(level, message, **fields):
    line = {"level": level, "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "service": "sylion-backend", "msg": message, **fields}
    print(json.dumps(line, ensure_ascii=False), flush=True)


def first_line(error):
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def reason(error, host, port):
    """Words an error as the real backend's runtime does."""
    text = first_line(error)
    low = text.lower()
    if "translate host name" in low or "name or service" in low or "no address" in low or "name resolution" in low:
        return f"getaddrinfo ENOTFOUND {host}"
    if "refused" in low:
        return f"connect ECONNREFUSED {host}:{port}"
    if "timeout" in low or "timed out" in low:
        return f"connect ETIMEDOUT {host}:{port}"
    if "no route" in low:
        return f"connect EHOSTUNREACH {host}:{port}"
    return text.split("failed: ", 1)[-1]


def database():
    return psycopg2.connect(os.environ["DATABASE_URL"], connect_timeout=2, application_name="sylion-backend")


def queue():
    return redis.Redis.from_url(os.environ["REDIS_URL"], socket_connect_timeout=1, socket_timeout=1, decode_responses=True)


def redis_connected():
    try:
        return bool(queue().ping())
    except redis.exceptions.AuthenticationError as error:
        log("error", f"Redis authentication failed: {first_line(error)}")
    except redis.exceptions.ResponseError as error:
        log("error", f"Redis error: {first_line(error)}")
    except redis.exceptions.RedisError as error:
        log("error", f"Redis connection refused: {reason(error, 'redis', 6379)}")
    return False


def database_connected():
    try:
        connection = database()
    except psycopg2.Error as error:
        why = reason(error, "postgres", 5432)
        log("error", f"Database connection failed: {why}" if "FATAL" in why else f"Database connection refused: {why}")
        return False
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return True
    except psycopg2.Error as error:
        log("error", f"Database query failed: {first_line(error)}")
        return False
    finally:
        connection.close()


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "sylion"

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def handle_one(self, route):
        began = time.monotonic()
        if stuck.is_set():
            threading.Event().wait()
        try:
            status, body = route()
        except psycopg2.Error as error:
            log("error", f"{self.command} {self.path} failed: {reason(error, 'postgres', 5432)}")
            status, body = 500, {"error": "Internal Server Error"}
        except redis.exceptions.RedisError as error:
            log("error", f"{self.command} {self.path} failed: {reason(error, 'redis', 6379)}")
            status, body = 500, {"error": "Internal Server Error"}
        self.answer(status, body)
        if self.path != "/health" or status != 200:
            log("info" if status < 500 else "error", "request completed", method=self.command, url=self.path,
                statusCode=status, responseTime=round((time.monotonic() - began) * 1000, 1))

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/health":
            self.handle_one(self.health)
        elif path == "/admin/knowledge/stats":
            self.handle_one(self.stats)
        else:
            self.handle_one(lambda: (404, {"error": "Not Found"}))

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        match = re.fullmatch(r"/admin/knowledge/documents/([0-9a-f-]{36})/reindex", self.path)
        if match:
            self.handle_one(lambda: self.reindex(match[1]))
        else:
            self.handle_one(lambda: (404, {"error": "Not Found"}))

    def health(self):
        cache, db = redis_connected(), database_connected()
        ok = cache and db
        return (200 if ok else 503), {"status": "ok" if ok else "degraded", "redisConnected": cache, "dbConnected": db,
                                      "version": VERSION, "uptime": round(time.monotonic() - STARTED, 1)}

    def usage(self, cursor, tenant):
        cursor.execute(
            """SELECT t.plan_code, (p.limits_json->>'maxDailyIndexing')::int, COALESCE(u.docs_indexed_count, 0)
               FROM tenants t JOIN plans p ON p.code = t.plan_code
               LEFT JOIN usage_counters_daily u ON u.tenant_id = t.id AND u.date = CURRENT_DATE
               WHERE t.id = %s""", (tenant,))
        return cursor.fetchone()

    def tenant(self):
        tenant = self.headers.get("X-Tenant-ID", "")
        return tenant if re.fullmatch(r"[0-9a-f-]{36}", tenant) else None

    def stats(self):
        tenant = self.tenant()
        if not tenant:
            return 400, {"error": "X-Tenant-ID header is required"}
        with database() as connection, connection.cursor() as cursor:
            row = self.usage(cursor, tenant)
            if not row:
                return 404, {"error": "Tenant not found"}
            cursor.execute("SELECT status, count(*) FROM knowledge_documents WHERE tenant_id = %s GROUP BY status", (tenant,))
            return 200, {"planCode": row[0], "maxDailyIndexing": row[1], "docsIndexedCount": row[2],
                         "documents": dict(cursor.fetchall())}

    def reindex(self, document):
        tenant = self.tenant()
        if not tenant:
            return 400, {"error": "X-Tenant-ID header is required"}
        with database() as connection, connection.cursor() as cursor:
            row = self.usage(cursor, tenant)
            cursor.execute("SELECT 1 FROM knowledge_documents WHERE id = %s AND tenant_id = %s", (document, tenant))
            if not row or not cursor.fetchone():
                return 404, {"error": "Document not found"}
            limit, used = row[1], row[2]
            if limit is not None and used >= limit:
                message = f"Daily indexing limit reached: {used}/{limit}"
                log("error", message, tenantId=tenant, documentId=document)
                cursor.execute("UPDATE knowledge_documents SET status = 'error', error_reason = %s, updated_at = now() WHERE id = %s",
                               (message, document))
                return 429, {"error": message}
            cursor.execute("UPDATE knowledge_documents SET status = 'indexed', error_reason = NULL, updated_at = now() WHERE id = %s",
                           (document,))
            cursor.execute(
                """INSERT INTO usage_counters_daily (tenant_id, date, docs_indexed_count) VALUES (%s, CURRENT_DATE, 1)
                   ON CONFLICT (tenant_id, date) DO UPDATE SET docs_indexed_count = usage_counters_daily.docs_indexed_count + 1""",
                (tenant,))
        number = queue().incr(f"bull:{QUEUE}:id")
        queue().zadd(f"bull:{QUEUE}:completed", {str(number): int(time.time() * 1000)})
        log("info", "document indexed", tenantId=tenant, documentId=document, jobId=number)
        return 202, {"status": "queued", "jobId": str(number)}


def work(name):
    """A worker as BullMQ's: its connection named after the queue, a job held by a lock, done or failed at its end."""
    key = f"bull:{name}:"
    announced = False
    while not idle.is_set():
        try:
            client = redis.Redis.from_url(os.environ["REDIS_URL"], socket_connect_timeout=1, socket_timeout=5, decode_responses=True,
                                          client_name="bull:" + base64.b64encode(name.encode()).decode())
            if not announced:
                client.ping()
                # What a worker that died held is taken up again, as BullMQ's does when it starts.
                for job in client.lrange(key + "active", 0, -1):
                    if not client.exists(f"{key}{job}:lock"):
                        client.pipeline().lrem(key + "active", 0, job).rpush(key + "wait", job).execute()
                log("info", f"Worker listening on {name}")
                announced = True
            while not idle.is_set():
                job = client.blmove(key + "wait", key + "active", 1, "RIGHT", "LEFT")
                if not job:
                    continue
                now = int(time.time() * 1000)
                client.pipeline().set(f"{key}{job}:lock", "world", px=LOCK_MS).hset(key + job, "processedOn", now).execute()
                data = client.hget(key + job, "data")
                time.sleep(JOB_SECONDS)
                done = client.pipeline().lrem(key + "active", 0, job).delete(f"{key}{job}:lock")
                if data is None:
                    done.zadd(key + "failed", {job: now}).hset(key + job, "failedReason", f"Missing key for job {job}")
                else:
                    done.zadd(key + "completed", {job: now}).hset(key + job, "finishedOn", now)
                done.execute()
            client.connection_pool.disconnect()
        except redis.exceptions.RedisError as error:
            if announced:
                log("error", f"Worker of {name} lost Redis: {reason(error, 'redis', 6379)}")
            announced = False
            time.sleep(1)


def stop(*_):
    log("info", "SIGTERM received, shutting down")
    os._exit(0)


def main():
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, lambda *_: stuck.set())
    signal.signal(signal.SIGUSR2, lambda *_: idle.set())
    log("info", f"Starting sylion-backend v{VERSION}", env=os.environ.get("NODE_ENV", "development"))
    missing = [name for name in REQUIRED if not os.environ.get(name)]
    if missing:
        noun = "variable" if len(missing) == 1 else "variables"
        log("fatal", f"Error: Missing required environment {noun}: {', '.join(missing)}")
        sys.exit(1)
    log("info", f"Warming embedding cache ({EMBEDDING_CACHE_MB} MB)")
    cache = bytearray(os.urandom(4096)) * (EMBEDDING_CACHE_MB * 256)
    server = ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT") or 8000)), Api)
    server.daemon_threads = True
    if database_connected():
        log("info", "Database connected")
    if redis_connected():
        log("info", f"Redis connected, worker listening on {QUEUE}")
    log("info", f"Server listening on http://0.0.0.0:{server.server_port}", cacheBytes=len(cache))
    for name in QUEUES:
        threading.Thread(target=work, args=(name,), daemon=True).start()
    server.serve_forever()


STARTED = time.monotonic()
if __name__ == "__main__":
    main()
