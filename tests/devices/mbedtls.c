/*
 * mbedTLS 2.28 and 3.6. Its input buffer is fixed when it is compiled (MBEDTLS_SSL_IN_CONTENT_LEN)
 * and a larger record is an error. By itself it offers neither max_fragment_length nor, in 2.28,
 * record_size_limit; 3.6 offers the latter in TLS 1.3, with IN_CONTENT_LEN for its value, always if
 * it is compiled in (MBEDTLS_SSL_RECORD_SIZE_LIMIT) and never if not: two programs.
 */
#include "device.h"

#include <stdio.h>
#include <sys/socket.h>

#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/error.h>
#include <mbedtls/ssl.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>
#if MBEDTLS_VERSION_MAJOR >= 3
#include <psa/crypto.h>
#endif

static int report(const char *what, int code)
{
    char text[128];
    mbedtls_strerror(code, text, sizeof text);
    fprintf(stderr, "%s %s: -0x%04X %s\n", MBEDTLS_VERSION_STRING_FULL, what, -code, text);
    return -1;
}

static int tcp_read(void *fd, unsigned char *bytes, size_t length)
{
    ssize_t n = recv(*(int *)fd, bytes, length, 0);
    return n < 0 ? MBEDTLS_ERR_SSL_TIMEOUT : (int)n;
}

static int tcp_write(void *fd, const unsigned char *bytes, size_t length)
{
    ssize_t n = send(*(int *)fd, bytes, length, MSG_NOSIGNAL);
    return n < 0 ? MBEDTLS_ERR_SSL_CONN_EOF : (int)n;
}

static int tls_read(void *stack, unsigned char *bytes, int length)
{
    for (;;) {
        int n = mbedtls_ssl_read(stack, bytes, (size_t)length);
        switch (n) {
        case MBEDTLS_ERR_SSL_WANT_READ:
        case MBEDTLS_ERR_SSL_WANT_WRITE:
#ifdef MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET
        case MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET:
#endif
            continue;
        case MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY:
            return 0;
        default:
            return n < 0 ? report("read", n) : n;
        }
    }
}

static int tls_write(void *stack, const unsigned char *bytes, int length)
{
    int n = mbedtls_ssl_write(stack, bytes, (size_t)length);
    return n < 0 ? report("write", n) : n;
}

/* The versions offered; without a wish, what the stack's defaults offer. */
static void set_version(mbedtls_ssl_config *config, const struct device_args *args)
{
#if MBEDTLS_VERSION_MAJOR >= 3
    if (args->version != 0) {
        mbedtls_ssl_protocol_version version =
            args->version == 13 ? MBEDTLS_SSL_VERSION_TLS1_3 : MBEDTLS_SSL_VERSION_TLS1_2;
        mbedtls_ssl_conf_min_tls_version(config, version);
        mbedtls_ssl_conf_max_tls_version(config, version);
    }
#else
    if (args->version == 13)
        device_cannot("TLS 1.3");
    mbedtls_ssl_conf_min_version(config, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);
#endif
}

static int handshake(mbedtls_ssl_context *ssl)
{
    int result;
    do {
        result = mbedtls_ssl_handshake(ssl);
    } while (result == MBEDTLS_ERR_SSL_WANT_READ || result == MBEDTLS_ERR_SSL_WANT_WRITE);
    return result == 0 ? 0 : report("handshake", result);
}

int main(int argc, char **argv)
{
    struct device_args args = device_arguments(argc, argv);
#ifndef MBEDTLS_SSL_RECORD_SIZE_LIMIT
    if (args.rsl)
        device_cannot("record_size_limit");
#endif
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context random;
    mbedtls_x509_crt ca;
    mbedtls_ssl_config config;
    mbedtls_ssl_context ssl;
    mbedtls_entropy_init(&entropy);
    mbedtls_ctr_drbg_init(&random);
    mbedtls_x509_crt_init(&ca);
    mbedtls_ssl_config_init(&config);
    mbedtls_ssl_init(&ssl);
#if MBEDTLS_VERSION_MAJOR >= 3
    psa_crypto_init();
#endif

    size_t length;
    unsigned char *pem = device_file(args.ca, &length);
    int fd = device_dial(&args);
    int failed = mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0);
    if (failed == 0)
        failed = mbedtls_x509_crt_parse(&ca, pem, length + 1);
    if (failed == 0)
        failed = mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT,
                                             MBEDTLS_SSL_TRANSPORT_STREAM,
                                             MBEDTLS_SSL_PRESET_DEFAULT);
    if (failed == 0 && args.mfl != 0)
        failed = mbedtls_ssl_conf_max_frag_len(&config, (unsigned char)device_mfl_code(args.mfl));
    if (failed != 0) {
        report("set-up", failed);
        return 1;
    }
    set_version(&config, &args);
    mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_REQUIRED);
    mbedtls_ssl_conf_ca_chain(&config, &ca, NULL);
    mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
    failed = mbedtls_ssl_setup(&ssl, &config);
    if (failed == 0)
        failed = mbedtls_ssl_set_hostname(&ssl, args.host);
    if (failed != 0) {
        report("set-up", failed);
        return 1;
    }
    mbedtls_ssl_set_bio(&ssl, &fd, tcp_write, tcp_read, NULL);
    if (handshake(&ssl) != 0)
        return 1;
    struct device_tls tls = {&ssl, tls_read, tls_write};
    if (device_get(&args, &tls) != 0)
        return 1;
    mbedtls_ssl_close_notify(&ssl);
    return 0;
}
