/* A file system with faults, for LD_PRELOAD: it grants no lock, and reading files whose name ends in $FAIL_END fails with
   the error number $FAIL_ERRNO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int flock(int file, int operation)
{
    errno = ENOLCK;
    return -1;
}

static int fails(int file)
{
    char link[64], name[4096];
    const char *end = getenv("FAIL_END");
    if (!end)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, name, sizeof name);
    size_t due = strlen(end);
    if (length < (ssize_t)due || strncmp(name + length - due, end, due))
        return 0;
    errno = atoi(getenv("FAIL_ERRNO"));
    return 1;
}

#define FAILING(name, parameters, arguments) \
    ssize_t name parameters \
    { \
        if (fails(file)) \
            return -1; \
        ssize_t (*real) parameters = dlsym(RTLD_NEXT, #name); \
        return real arguments; \
    }

FAILING(read, (int file, void *to, size_t size), (file, to, size))
FAILING(pread, (int file, void *to, size_t size, off_t from), (file, to, size, from))
FAILING(pread64, (int file, void *to, size_t size, off64_t from), (file, to, size, from))
