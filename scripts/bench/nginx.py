"""nginx's configurations: the cache and the push proxy that Roadstead is compared with, and slow upstreams."""

COMMON = """\
daemon off;
{processes}
error_log stderr error;
pid {folder}/pid;
worker_rlimit_nofile 16384;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000000;
    keepalive_timeout 10m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/temporary;
    fastcgi_temp_path {folder}/unused;
    uwsgi_temp_path {folder}/unused;
    scgi_temp_path {folder}/unused;
{http}
}}
"""

PROXY = """\
    output_buffers 1 128k;
    http2_chunk_size 16k;
    open_file_cache max=1000 inactive=10m;
    open_file_cache_valid 10m;
    ssl_session_cache shared:tls:10m;
    ssl_session_timeout 1h;
    ssl_protocols TLSv1.2 TLSv1.3;
    upstream registry {{
        server {upstream};
        keepalive 64;
        keepalive_requests 100000000;
    }}
    proxy_cache_path {folder}/cache keys_zone=cache:10m max_size=20g use_temp_path=off;
    server {{
        listen 127.0.0.1:{https} ssl http2 {reuseport};
        listen 127.0.0.1:{http} {reuseport};
        ssl_certificate {chain};
        ssl_certificate_key {key};
        location / {{
            proxy_pass http://registry;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
{location}
        }}
    }}
"""

CACHE = """\
            proxy_buffers 16 64k;
            proxy_buffer_size 64k;
            proxy_busy_buffers_size 128k;
            proxy_cache cache;
            proxy_cache_valid 200 1h;
            proxy_cache_lock on;
            proxy_cache_key $uri$http_accept;
            add_header X-Cache $upstream_cache_status;
"""

PUSH = """\
            client_max_body_size 0;
            client_body_buffer_size 256k;
            proxy_request_buffering off;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
"""

STATIC = """\
    server {{
        listen 127.0.0.1:{port};
        location = /v2/ {{ return 200 "{{}}"; }}
        location / {{
            {limit}
            {source}
        }}
    }}
"""


def proxy(folder, ports, upstream, certificate, push, alone):
    """A caching proxy, or with `push` one that streams uploads. `alone`: one process, without a master."""
    chain, key = certificate
    http = PROXY.format(
        folder=folder,
        https=ports[0],
        http=ports[1],
        upstream=upstream.removeprefix("http://"),
        chain=chain,
        key=key,
        reuseport="" if alone else "reuseport",
        location=PUSH if push else CACHE,
    )
    one = "master_process off;\nworker_processes 1;"
    processes = one if alone else "worker_processes auto;\nworker_cpu_affinity auto;"
    return COMMON.format(folder=folder, processes=processes, http=http)


def static(folder, port, tree, per_connection, proxied):
    """A registry by files or, where `proxied` is given, in front of another; each connection limited."""
    limit = f"limit_rate {per_connection};" if per_connection else ""
    if proxied:
        source = (
            f"proxy_pass {proxied}; proxy_http_version 1.1; proxy_set_header Host $http_host; "
            "proxy_max_temp_file_size 0;"
        )
    else:
        source = f"root {tree};"
    http = STATIC.format(port=port, limit=limit, source=source)
    return COMMON.format(folder=folder, processes="worker_processes auto;", http=http)
