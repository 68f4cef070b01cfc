"""Clusters of a test's own, beside the one of cluster.sh: standbys, shards, and what gets killed."""

import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import tempfile
import time

import psycopg2

from conftest import Database

CONFIG = os.environ.get("PG_CONFIG", "pg_config")


def bindir():
    return subprocess.run([CONFIG, "--bindir"], check=True, capture_output=True, text=True).stdout.strip()


def as_server_user():
    """The words before a command that make it run as the servers' user."""
    if os.getuid() != 0:
        return []
    user = pwd.getpwnam(os.environ.get("BITLM_PG_USER", "nobody"))
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


class Cluster:
    """A server with its data under a temporary folder; it listens on a socket there, run by an ordinary user."""

    def __init__(self, *lines, copy_of=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="bitlm-pg.", dir="/tmp"))
        self.data, self.log = self.dir / "data", self.dir / "server.log"
        self.prefix = as_server_user()
        if self.prefix:
            shutil.chown(self.dir, os.environ.get("BITLM_PG_USER", "nobody"))
        self.dir.chmod(0o755)
        if copy_of:
            self.run("pg_basebackup", "-h", copy_of.dir, "-U", "bitlm", "-D", self.data, "-R", "-c", "fast", "-X", "stream")
        else:
            self.run("initdb", "-D", self.data, "-U", "bitlm", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write("\n".join(["", "listen_addresses = ''", f"unix_socket_directories = '{self.dir}'", "fsync = off",
                                  "shared_buffers = 16MB", "restart_after_crash = on", *lines, ""]))
        self.start()

    def run(self, program, *arguments):
        result = subprocess.run([*self.prefix, f"{bindir()}/{program}", *map(str, arguments)], cwd=self.dir, check=False,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "HOME": str(self.dir)})
        assert result.returncode == 0, result.stdout
        return result.stdout

    def start(self):
        # Not through a pipe: the server would hold it open.  What was killed may still be ending.
        for attempt in range(20):
            done = subprocess.run([*self.prefix, f"{bindir()}/pg_ctl", "-D", self.data, "-l", self.log, "-w", "start"], cwd=self.dir,
                                  check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if done.returncode == 0:
                return
            time.sleep(0.1 * (attempt + 1))
        raise AssertionError(self.log.read_text()[-3000:])

    def stop(self, mode="fast"):
        self.run("pg_ctl", "-D", self.data, "-m", mode, "-w", "stop")

    def kill(self):
        """kill -9 of the postmaster and all of its processes."""
        pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
        for one in [pid, *map(int, children)]:
            try:
                os.kill(one, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.2)

    def connect(self, dbname="postgres"):
        for _ in range(100):
            try:
                return Database(host=str(self.dir), user="bitlm", dbname=dbname)
            except psycopg2.OperationalError:  # starting, or recovering from a crash
                time.sleep(0.1)
        raise AssertionError(self.log.read_text()[-3000:])

    def close(self):
        try:
            self.stop("immediate")
        except AssertionError:
            pass
        shutil.rmtree(self.dir, ignore_errors=True)
