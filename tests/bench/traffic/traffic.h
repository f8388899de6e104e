// What the parts of `traffic` share: clock, sockets towards the peer, measured times. Rule: every wait has an end.
#ifndef TRAFFIC_H
#define TRAFFIC_H
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

extern struct sockaddr_storage peer;
extern socklen_t peer_length;

_Noreturn void fail(const char *what);
uint64_t now_ns(void);
uint64_t in_seconds(double seconds);
void nap_us(long microseconds);
int set_option(int fd, int level, int name, int value);
void set_timeout(int fd, int milliseconds);

// Names the peer that `dial` connects to; `offset` is added to the port.
void name_peer(const char *address, const char *port, int offset);
// A socket of this type connected to the peer (with SOCK_NONBLOCK perhaps only connecting), or -1 with errno.
int dial(int type);

// What was measured, in tenths of microseconds, and what failed.
struct times {
	uint32_t *values;
	size_t count, room, errors;
};
void note(struct times *times, uint64_t start);
void report(struct times *times, uint64_t begin);

// The server keeps the connection after KEEP and closes it after LAST: the ports of the closing side stay taken for a
// minute (TIME-WAIT), and only the server's side has enough of them.
enum { KEEP = 'k', LAST = 'l' };
int trip(int fd, char byte);

// Ports of the server: echo (TCP and UDP), sink and push of datagrams, the same of super-packets.
enum { ECHO_PORT, SINK_PORT, PUSH_PORT, SUPER_SINK_PORT, SUPER_PUSH_PORT };

// A request to push datagrams of `size` bytes at `rate` a second (0 = unpaced), `segments` of them in one call.
struct order {
	char tag[4];
	uint32_t size, segments, rate, milliseconds;
};
// The last datagrams of a push: how many bytes were handed to the kernel.
struct done {
	char tag[4];
	uint32_t zero;
	uint64_t bytes;
};
uint64_t blast(int fd, const struct order *order, const struct sockaddr_storage *to, socklen_t length);
// Room for 64 datagrams of any size, and one reading of them.
struct intake;
struct intake *make_intake(void);
int take(int fd, struct intake *intake);
const char *datagram(const struct intake *intake, int which, size_t *length, const struct sockaddr_storage **from, socklen_t *from_length);

void serve(const char *port, char **addresses);
void new_flows(int type, double seconds, size_t number);
void trips(int type, double seconds);
void find_rate(int down, uint32_t size);
void super_packets(int down, double seconds);
void hold(long count);
void crowd(int processes, int sockets);
void scan(void);
#endif
