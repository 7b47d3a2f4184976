/*
 * What every small client has in common: its arguments, its socket and its one HTTP request. The
 * TLS stack is the caller's; this part knows nothing of it.
 */
#ifndef DEVICE_H
#define DEVICE_H

#include <stddef.h>

/* NAME HOST PORT CA.pem PATH [--tls12 | --tls13] [--mfl N] [--rsl] */
struct device_args {
    const char *host; /* also the name that the certificate must have */
    const char *port;
    const char *ca;   /* the one certificate that is trusted, a PEM file */
    const char *path;
    int version;      /* 12, 13, or 0: whatever the stack offers by itself */
    int mfl;          /* max_fragment_length to offer (RFC 6066 section 4), in bytes; 0: none */
    int rsl;          /* whether to offer record_size_limit (RFC 8449) */
};

/* Reads them, or prints the usage and exits with 2. */
struct device_args device_arguments(int argc, char **argv);

/* For a stack that cannot do what was asked: says so and exits with 2. */
void device_cannot(const char *what);

/* A connected socket. Exits with 1 if there is none. Reads and writes give up after 30 s. */
int device_dial(const struct device_args *args);

/* The whole of a file, with a zero byte after it that *length does not count. Exits with 2. */
unsigned char *device_file(const char *path, size_t *length);

/* The code of max_fragment_length in bytes, 1 to 4, or 0 (RFC 6066 section 4). */
int device_mfl_code(int bytes);

/*
 * How a stack moves plaintext: the number of bytes moved, 0 at the end of the stream, below 0
 * after an error, which the stack's part reports itself.
 */
struct device_tls {
    void *stack;
    int (*read)(void *stack, unsigned char *bytes, int length);
    int (*write)(void *stack, const unsigned char *bytes, int length);
};

/*
 * GETs args->path and copies the body to stdout. 0 if the status was 200 and as many bytes came as
 * Content-Length announced; otherwise 1, with the reason on stderr.
 */
int device_get(const struct device_args *args, const struct device_tls *tls);

#endif
