/* First process of every Pod: it holds the Pod's namespaces and does nothing. No C library. */

#define SYS_PAUSE 34

void _start(void)
{
    for (;;) {
        long result;
        __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_PAUSE) : "rcx", "r11", "memory");
    }
}
