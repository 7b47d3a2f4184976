/*
 * wolfSSL 5.9, TLS 1.2 and 1.3, with a heap of HEAP bytes in which no block is larger than BLOCK, as
 * in its own static memory or in a heap that has been in use for a while. It allocates room for each
 * record when the record's header has come: a record larger than that is an error. By itself it
 * offers no extension about record sizes.
 *
 * wolfSSL is under the GPL: this is a program of its own, for tests, and nothing links it.
 */
#include "device.h"

#include <wolfssl/wolfcrypt/settings.h>

#include <wolfssl/ssl.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The heap's books. wolfSSL's own words for a failed allocation do not say of how much. */
static size_t in_use, refused;

/* In front of every block: its length, in a place that keeps the block aligned. */
union header {
    size_t length;
    max_align_t align;
};

static void *take(size_t length)
{
    if (length > BLOCK || length > HEAP - in_use) {
        refused = length;
        return NULL;
    }
    union header *header = malloc(sizeof *header + length);
    if (header == NULL)
        return NULL;
    header->length = length;
    in_use += length;
    return header + 1;
}

static void give(void *block)
{
    if (block == NULL)
        return;
    union header *header = (union header *)block - 1;
    in_use -= header->length;
    free(header);
}

static void *take_again(void *block, size_t length)
{
    void *other = take(length);
    if (other == NULL || block == NULL)
        return other;
    size_t had = ((union header *)block - 1)->length;
    memcpy(other, block, had < length ? had : length);
    give(block);
    return other;
}

static int report(const char *what, int code)
{
    fprintf(stderr, "wolfSSL %s %s: %d %s", LIBWOLFSSL_VERSION_STRING, what, code,
            wolfSSL_ERR_reason_error_string((unsigned long)code));
    if (refused != 0)
        fprintf(stderr, " (no block of %zu bytes)", refused);
    fprintf(stderr, "\n");
    return -1;
}

static int tls_read(void *stack, unsigned char *bytes, int length)
{
    int n = wolfSSL_read(stack, bytes, length);
    if (n > 0)
        return n;
    int code = wolfSSL_get_error(stack, n);
    return code == WOLFSSL_ERROR_ZERO_RETURN ? 0 : report("read", code);
}

static int tls_write(void *stack, const unsigned char *bytes, int length)
{
    int n = wolfSSL_write(stack, bytes, length);
    return n > 0 ? n : report("write", wolfSSL_get_error(stack, n));
}

int main(int argc, char **argv)
{
    struct device_args args = device_arguments(argc, argv);
    if (args.rsl)
        device_cannot("record_size_limit");
    size_t length;
    unsigned char *pem = device_file(args.ca, &length);
    int fd = device_dial(&args);

    wolfSSL_SetAllocators(take, give, take_again);
    wolfSSL_Init();
    WOLFSSL_CTX *context = wolfSSL_CTX_new(args.version == 12   ? wolfTLSv1_2_client_method()
                                           : args.version == 13 ? wolfTLSv1_3_client_method()
                                                                : wolfTLS_client_method());
    if (context == NULL)
        return -report("set-up", MEMORY_E);
    int done = wolfSSL_CTX_trust_peer_buffer(context, pem, (long)length, WOLFSSL_FILETYPE_PEM);
    if (done != WOLFSSL_SUCCESS)
        return -report("certificate", done);
    wolfSSL_CTX_set_verify(context, WOLFSSL_VERIFY_PEER, NULL);
    WOLFSSL *ssl = wolfSSL_new(context);
    if (ssl == NULL)
        return -report("set-up", MEMORY_E);
    wolfSSL_check_domain_name(ssl, args.host);
    wolfSSL_UseSNI(ssl, WOLFSSL_SNI_HOST_NAME, args.host, (unsigned short)strlen(args.host));
    if (args.mfl != 0)
        wolfSSL_UseMaxFragment(ssl, (unsigned char)device_mfl_code(args.mfl));
    wolfSSL_set_fd(ssl, fd);
    done = wolfSSL_connect(ssl);
    if (done != WOLFSSL_SUCCESS)
        return -report("handshake", wolfSSL_get_error(ssl, done));
    struct device_tls tls = {ssl, tls_read, tls_write};
    if (device_get(&args, &tls) != 0)
        return 1;
    wolfSSL_shutdown(ssl);
    return 0;
}
