/* See device.h. Everything here is small on purpose: a device has no room for more. */
#include "device.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* Seconds until a silent peer is given up. */
#define PATIENCE 30

/* Bytes of a response head, and of the piece in which a body is read. */
#define HEAD_MAX 2048
#define PIECE 512

struct device_args device_arguments(int argc, char **argv)
{
    struct device_args args = {0};
    if (argc < 5)
        goto usage;
    args.host = argv[1];
    args.port = argv[2];
    args.ca = argv[3];
    args.path = argv[4];
    for (int at = 5; at < argc; at++) {
        if (strcmp(argv[at], "--tls12") == 0)
            args.version = 12;
        else if (strcmp(argv[at], "--tls13") == 0)
            args.version = 13;
        else if (strcmp(argv[at], "--rsl") == 0)
            args.rsl = 1;
        else if (strcmp(argv[at], "--mfl") == 0 && at + 1 < argc)
            args.mfl = atoi(argv[++at]);
        else
            goto usage;
    }
    if (args.mfl != 0 && device_mfl_code(args.mfl) == 0)
        goto usage;
    return args;
usage:
    fprintf(stderr,
            "usage: %s HOST PORT CA.pem PATH [--tls12 | --tls13] [--mfl 512|1024|2048|4096] "
            "[--rsl]\n",
            argv[0]);
    exit(2);
}

void device_cannot(const char *what)
{
    fprintf(stderr, "this program cannot do %s\n", what);
    exit(2);
}

int device_dial(const struct device_args *args)
{
    struct addrinfo hints = {0}, *found = NULL;
    hints.ai_family = AF_INET;
    hints.ai_socktype = SOCK_STREAM;
    int failed = getaddrinfo(args->host, args->port, &hints, &found);
    if (failed != 0) {
        fprintf(stderr, "%s: %s\n", args->host, gai_strerror(failed));
        exit(1);
    }
    int fd = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) != 0) {
        fprintf(stderr, "connect: %s\n", strerror(errno));
        exit(1);
    }
    freeaddrinfo(found);
    struct timeval patience = {.tv_sec = PATIENCE};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    return fd;
}

unsigned char *device_file(const char *path, size_t *length)
{
    static unsigned char bytes[16384];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(2);
    }
    *length = fread(bytes, 1, sizeof bytes - 1, file);
    bytes[*length] = 0;
    fclose(file);
    return bytes;
}

int device_mfl_code(int bytes)
{
    for (int code = 1; code <= 4; code++)
        if (bytes == 256 << code)
            return code;
    return 0;
}

static int send_request(const struct device_args *args, const struct device_tls *tls)
{
    char request[1024];
    int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n",
                          args->path, args->host);
    if (length >= (int)sizeof request) {
        fprintf(stderr, "the path is too long\n");
        return -1;
    }
    for (int sent = 0; sent < length;) {
        int n = tls->write(tls->stack, (unsigned char *)request + sent, length - sent);
        if (n <= 0)
            return -1;
        sent += n;
    }
    return 0;
}

/* The body's length if the head is that of a 200 that announces it, otherwise -1. */
static long judge_head(const char *head)
{
    if (strncmp(head, "HTTP/1.1 200 ", 13) != 0) {
        fprintf(stderr, "the server answered: %.*s\n", (int)strcspn(head, "\r\n"), head);
        return -1;
    }
    static const char name[] = "\r\ncontent-length:";
    for (const char *at = head; *at != 0; at++)
        if (strncasecmp(at, name, sizeof name - 1) == 0)
            return strtol(at + sizeof name - 1, NULL, 10);
    fprintf(stderr, "the server sent no Content-Length\n");
    return -1;
}

int device_get(const struct device_args *args, const struct device_tls *tls)
{
    static char head[HEAD_MAX + 1];
    unsigned char piece[PIECE];
    int filled = 0;
    char *end = NULL;

    if (send_request(args, tls) != 0)
        return 1;
    while (end == NULL) {
        if (filled == HEAD_MAX) {
            fprintf(stderr, "the response head has more than %d bytes\n", HEAD_MAX);
            return 1;
        }
        int n = tls->read(tls->stack, (unsigned char *)head + filled, HEAD_MAX - filled);
        if (n < 0)
            return 1;
        if (n == 0) {
            fprintf(stderr, "the stream ended in the head\n");
            return 1;
        }
        filled += n;
        head[filled] = 0;
        end = strstr(head, "\r\n\r\n");
    }
    *end = 0;
    long wanted = judge_head(head);
    if (wanted < 0)
        return 1;

    long got = filled - (end + 4 - head);
    fwrite(end + 4, 1, (size_t)got, stdout);
    while (got < wanted) {
        long left = wanted - got;
        int n = tls->read(tls->stack, piece, left < PIECE ? (int)left : PIECE);
        if (n < 0) {
            fprintf(stderr, "after %ld of %ld bytes\n", got, wanted);
            return 1;
        }
        if (n == 0) {
            fprintf(stderr, "the stream ended after %ld of %ld bytes\n", got, wanted);
            return 1;
        }
        fwrite(piece, 1, (size_t)n, stdout);
        got += n;
    }
    if (fflush(stdout) != 0 || got != wanted) {
        fprintf(stderr, "%ld bytes instead of %ld\n", got, wanted);
        return 1;
    }
    return 0;
}
