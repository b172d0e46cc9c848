/*
 * Lets User-Mode Linux before 6.13 run on processors whose register state is larger than its
 * fixed buffer (AMX: 11,008 bytes): the host's ptrace answers EFAULT to a PTRACE_SETREGSET that
 * is shorter than the whole area, and the guest panics at boot with
 * "ptrace set fp regs failed, errno = 14". Loaded with LD_PRELOAD, this completes the buffer with
 * what the traced process has.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define PTRACE_PEEKTEXT 1
#define PTRACE_PEEKUSER 3
#define PTRACE_GETREGSET 0x4204
#define PTRACE_SETREGSET 0x4205
#define NT_X86_XSTATE 0x202
#define AREA_LIMIT 65536

static long request_of_kernel(long request, long pid, void *addr, void *data)
{
	return syscall(SYS_ptrace, request, pid, addr, data);
}

static long set_whole_area(long pid, void *addr, struct iovec *given)
{
	static __thread char area[AREA_LIMIT] __attribute__((aligned(64)));
	struct iovec whole = { area, sizeof area };

	if (request_of_kernel(PTRACE_GETREGSET, pid, addr, &whole) != 0 ||
	    whole.iov_len <= given->iov_len)
		return request_of_kernel(PTRACE_SETREGSET, pid, addr, given);
	memcpy(area, given->iov_base, given->iov_len);
	return request_of_kernel(PTRACE_SETREGSET, pid, addr, &whole);
}

long ptrace(int request, ...)
{
	va_list args;

	va_start(args, request);
	long pid = va_arg(args, pid_t);
	void *addr = va_arg(args, void *);
	void *data = va_arg(args, void *);
	va_end(args);

	/* As in the C library: a PEEK returns the word that the system call stores. */
	if (request >= PTRACE_PEEKTEXT && request <= PTRACE_PEEKUSER) {
		long word;
		long result = request_of_kernel(request, pid, addr, &word);

		return result < 0 ? result : word;
	}
	if (request == PTRACE_SETREGSET && (long)addr == NT_X86_XSTATE)
		return set_whole_area(pid, addr, data);
	return request_of_kernel(request, pid, addr, data);
}
