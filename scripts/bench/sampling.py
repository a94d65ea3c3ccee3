"""Shares of CPU time by what it is spent on: samples of perf with their call chains."""

import collections
import re
import subprocess
import time

from .processes import Failed, process_tree, program

FREQUENCY = 1999
COPY = r"^(rep_movs|_?copy_(to|from|user|page)|__?arch_copy|memcpy_orig|copyin|copyout|_copy_)"
# (label, what the innermost function matches, what some function of the chain matches); the first that fits counts
KINDS = (
    ("SHA-256", r"sha256|sha2::|compress256|digest_blocks|sha_ni", None),
    ("AES-GCM", r"aes|gcm|ghash|gmult", None),
    ("copies out of sockets", COPY, r"tcp_recvmsg|unix_stream_read"),
    ("copies out of the page cache", COPY, r"filemap_read|generic_file_read|splice"),
    ("copies into the page cache", COPY, r"generic_perform_write|ext4_.*write|iomap|btrfs|xfs"),
    ("copies into sockets", COPY, r"tcp_sendmsg|unix_stream_send"),
    ("TCP, IP and loopback", r".", r"tcp_|inet_|ip_(rcv|queue|local|output|finish)|net_rx|sock_(send|recv|read|write)|skb_|__sys_(send|recv)"),
    ("page cache, file system, disk", r".", r"ext4|filemap|folio|jbd2|writeback|blk_|submit_bio|vfs_|xfs|btrfs|overlay|shmem|do_sys_open|fsync"),
    ("page faults, memory maps", r".", r"page_fault|do_madvise|mmap|munmap|brk"),
    ("wake-ups, scheduling, epoll", r".", r"schedule|try_to_wake_up|futex|epoll|ep_poll|wake_up|hrtimer|nanosleep"),
    ("other system calls", r".", r"entry_SYSCALL|do_syscall|x64_sys|asm_|ret_from_fork|kthread|irq"),
    ("malloc, free", r"malloc|free$|realloc|calloc|ngx_palloc|unlink_chunk", None),
    ("memcpy in the program", r"^_*mem(cpy|move|set|cmp)", None),
    ("HTTP/2", r"\bh2::|ngx_http_v2|hpack", None),
    ("TLS besides encryption", r"rustls|SSL_|ssl3_|tls1|EVP_|CRYPTO_|BIO_|bio_|aws_lc", None),
)
REST = "the rest of the program"


def kind(chain):
    leaf = chain[0]
    for label, innermost, somewhere in KINDS:
        if re.search(innermost, leaf) and (somewhere is None or any(re.search(somewhere, name) for name in chain)):
            return label
    return REST


def samples(server, action):
    """Runs `action` while the processes of `server` are sampled. Returns what it returns, and {label: share of the
    samples, 0 to 1}."""
    path = server.folder / "perf.data"
    running = ",".join(map(str, process_tree({one.pid for one in server.processes})))
    command = [program("perf"), "record", "-q", "-g", "-e", "cpu-clock", "-F", str(FREQUENCY), "-p", running, "-o", path]
    recorder = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 10
        while not path.exists():
            if time.monotonic() > until or recorder.poll() is not None:
                raise Failed(f"perf does not record: {recorder.stderr.read().decode()[-500:]}")
            time.sleep(0.05)
        result = action()
    finally:
        recorder.terminate()
        recorder.wait(20)
    return result, shares(path)


def shares(path):
    command = [program("perf"), "script", "-i", path, "-F", "ip,sym", "--demangle"]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=120).stdout
    counts, chain = collections.Counter(), []
    for line in [*out.splitlines(), ""]:
        fields = line.split(None, 1)
        if len(fields) == 2:
            chain.append(fields[1])
        elif chain:
            counts[kind(chain)] += 1
            chain = []
    total = counts.total()
    if total < 100:
        raise Failed(f"perf took only {total} samples")
    return {label: count / total for label, count in counts.items()}
