/*
 * BearSSL 0.6, TLS 1.2 only: one buffer for both directions, sized for records of RECORD bytes.
 * It offers max_fragment_length by itself, always, with the largest of 512, 1024, 2048 and 4096
 * that its buffer holds; it does not mind a server that ignores the offer until a record comes that
 * is larger than the buffer.
 */
#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <bearssl.h>

/* What a record may have around its plaintext (bearssl_ssl.h, BR_SSL_BUFSIZE_INPUT). */
#define OVERHEAD (BR_SSL_BUFSIZE_INPUT - 16384)

static unsigned char record[RECORD + OVERHEAD];

struct stack {
    br_ssl_client_context client;
    br_x509_minimal_context x509;
    br_sslio_context io;
    int fd;
};

static const struct {
    int code;
    const char *name;
} errors[] = {
#define ERROR(name) {name, #name}
    ERROR(BR_ERR_BAD_PARAM),       ERROR(BR_ERR_BAD_STATE),        ERROR(BR_ERR_BAD_VERSION),
    ERROR(BR_ERR_BAD_LENGTH),      ERROR(BR_ERR_TOO_LARGE),        ERROR(BR_ERR_BAD_MAC),
    ERROR(BR_ERR_UNEXPECTED),      ERROR(BR_ERR_BAD_FRAGLEN),      ERROR(BR_ERR_BAD_HANDSHAKE),
    ERROR(BR_ERR_EXTRA_EXTENSION), ERROR(BR_ERR_BAD_CIPHER_SUITE), ERROR(BR_ERR_OVERSIZED_ID),
    ERROR(BR_ERR_BAD_SIGNATURE),   ERROR(BR_ERR_NO_RANDOM),        ERROR(BR_ERR_IO),
    ERROR(BR_ERR_X509_EXPIRED),    ERROR(BR_ERR_X509_NOT_TRUSTED), ERROR(BR_ERR_X509_BAD_SERVER_NAME),
};

static int report(const struct stack *stack, const char *what)
{
    int code = br_ssl_engine_last_error(&stack->client.eng);
    const char *name = "";
    for (size_t at = 0; at < sizeof errors / sizeof *errors; at++)
        if (errors[at].code == code)
            name = errors[at].name;
    fprintf(stderr, "BearSSL %s: %d %s\n", what, code, name);
    return -1;
}

static int tcp_read(void *fd, unsigned char *bytes, size_t length)
{
    ssize_t n = recv(*(int *)fd, bytes, length, 0);
    return n <= 0 ? -1 : (int)n;
}

static int tcp_write(void *fd, const unsigned char *bytes, size_t length)
{
    ssize_t n = send(*(int *)fd, bytes, length, MSG_NOSIGNAL);
    return n <= 0 ? -1 : (int)n;
}

static int tls_read(void *opaque, unsigned char *bytes, int length)
{
    struct stack *stack = opaque;
    int n = br_sslio_read(&stack->io, bytes, (size_t)length);
    if (n >= 0)
        return n;
    /* A close_notify leaves the engine closed and without an error. */
    return br_ssl_engine_last_error(&stack->client.eng) == 0 ? 0 : report(stack, "read");
}

static int tls_write(void *opaque, const unsigned char *bytes, int length)
{
    struct stack *stack = opaque;
    if (br_sslio_write_all(&stack->io, bytes, (size_t)length) != 0 ||
        br_sslio_flush(&stack->io) != 0)
        return report(stack, "handshake or write");
    return length;
}

/* Bytes that a decoder hands out piece by piece. */
struct bytes {
    unsigned char at[4096];
    size_t length;
};

static void append(void *opaque, const void *piece, size_t length)
{
    struct bytes *to = opaque;
    if (length > sizeof to->at - to->length) {
        fprintf(stderr, "the certificate is too large\n");
        exit(2);
    }
    memcpy(to->at + to->length, piece, length);
    to->length += length;
}

/* The first certificate of a PEM file, as the one thing that is trusted. */
static br_x509_trust_anchor trust(const char *path)
{
    static struct bytes der, name;
    static br_x509_decoder_context decoder;
    size_t length;
    unsigned char *pem = device_file(path, &length);
    br_pem_decoder_context context;
    br_pem_decoder_init(&context);
    for (int ended = 0; length > 0 && !ended;) {
        size_t taken = br_pem_decoder_push(&context, pem, length);
        pem += taken;
        length -= taken;
        switch (br_pem_decoder_event(&context)) {
        case BR_PEM_BEGIN_OBJ:
            br_pem_decoder_setdest(&context, append, &der);
            break;
        case BR_PEM_END_OBJ:
            ended = 1;
            break;
        default:
            break;
        }
    }
    br_x509_decoder_init(&decoder, append, &name);
    br_x509_decoder_push(&decoder, der.at, der.length);
    br_x509_pkey *key = br_x509_decoder_get_pkey(&decoder);
    if (key == NULL) {
        fprintf(stderr, "%s: %d\n", path, br_x509_decoder_last_error(&decoder));
        exit(2);
    }
    br_x509_trust_anchor anchor = {0};
    anchor.dn.data = name.at;
    anchor.dn.len = name.length;
    anchor.flags = br_x509_decoder_isCA(&decoder) ? BR_X509_TA_CA : 0;
    anchor.pkey = *key;
    return anchor;
}

int main(int argc, char **argv)
{
    static struct stack stack;
    struct device_args args = device_arguments(argc, argv);
    if (args.version == 13)
        device_cannot("TLS 1.3");
    if (args.rsl)
        device_cannot("record_size_limit");
    if (args.mfl != 0)
        device_cannot("another max_fragment_length than its buffer's");
    br_x509_trust_anchor anchor = trust(args.ca);
    stack.fd = device_dial(&args);
    br_ssl_client_init_full(&stack.client, &stack.x509, &anchor, 1);
    br_ssl_engine_set_buffer(&stack.client.eng, record, sizeof record, 0);
    if (!br_ssl_client_reset(&stack.client, args.host, 0)) {
        report(&stack, "set-up");
        return 1;
    }
    br_sslio_init(&stack.io, &stack.client.eng, tcp_read, &stack.fd, tcp_write, &stack.fd);
    struct device_tls tls = {&stack, tls_read, tls_write};
    if (device_get(&args, &tls) != 0)
        return 1;
    /* A close_notify; br_sslio_close would then wait for the peer's. */
    br_ssl_engine_close(&stack.client.eng);
    size_t length;
    unsigned char *alert = br_ssl_engine_sendrec_buf(&stack.client.eng, &length);
    if (alert != NULL)
        tcp_write(&stack.fd, alert, length);
    return 0;
}
