// A router that does the least: what one by a TUN and sockets of its own costs on this machine where it does nothing else.
//
//   least QUEUES      opens the device least0 with so many queues, a thread each; sockets carry mark 1. Routes are the caller's.
//
// It trusts every packet: no owner is looked for, nothing is judged, checked, timed, sent again or protected from anybody, and a
// connection upstream is waited for. IPv4 without options only, TCP and UDP. It is a yardstick and no bound: it shows what this shape
// costs, not what another might, and Portreeve has been as fast. Bytes go as in Portreeve: super-packets whole, read once, written once,
// from the packet straight to the socket.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { LINK = 10, BATCH = 6, PACKET = 65536, WINDOW = 512 * 1024, SHIFT = 9, SPIN_NS = 50000, UDP_FLOWS = 8192, MSS = 1460 };

struct flow {
	int fd, tun;
	struct iphdr ip;
	uint16_t from, to;
	// TCP: what is expected of the program next, what goes to it next, what it has acknowledged, and its room.
	uint32_t expected, next, acked, room, said;
	int shift;
	// What the socket did not take yet.
	uint8_t *kept;
	uint32_t kept_len, kept_from;
	char tcp, readable, writable, dirty, finished, shut, ended;
};

static struct flow *flows[2][65536];

static void fail(const char *what) {
	perror(what);
	exit(1);
}

static uint64_t now_ns(void) {
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint32_t sum(const void *bytes, int len, uint32_t so_far) {
	const uint8_t *at = bytes;
	for (; len > 1; len -= 2, at += 2)
		so_far += at[0] << 8 | at[1];
	return len ? so_far + (at[0] << 8) : so_far;
}

static uint16_t folded(uint32_t sum) {
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons(~sum);
}

// The link's and IP's headers of a packet to the program, its transport part being so long. The kernel does the rest of the checksum.
static void head(struct flow *f, uint8_t *out, int len, int check) {
	struct virtio_net_hdr *link = (void *)out;
	struct iphdr *ip = (void *)(out + LINK);
	memset(link, 0, LINK);
	*ip = (struct iphdr){ .ihl = 5, .version = 4, .tot_len = htons(20 + len), .ttl = 64, .protocol = f->tcp ? 6 : 17 };
	ip->saddr = f->ip.daddr;
	ip->daddr = f->ip.saddr;
	ip->check = folded(sum(ip, 20, 0));
	*(uint16_t *)(out + LINK + 20 + check) = ~folded(sum(&ip->saddr, 8, ip->protocol + len));
	*link = (struct virtio_net_hdr){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 20, .csum_offset = check, .hdr_len = 40 };
}

static void to_program(struct flow *f, int flags, uint8_t *bytes, int len) {
	uint8_t out[LINK + 48];
	struct virtio_net_hdr *link = (void *)out;
	struct tcphdr *tcp = (void *)(out + LINK + 20);
	int options = flags & TH_SYN ? 8 : 0;
	*tcp = (struct tcphdr){ .source = f->to, .dest = f->from, .seq = htonl(f->next), .ack_seq = htonl(f->expected), .doff = 5 + options / 4 };
	tcp->window = htons(options ? 65535 : (WINDOW - f->kept_len) >> SHIFT);
	((uint8_t *)tcp)[13] = flags;
	if (options)
		memcpy(tcp + 1, (uint8_t[]){ 2, 4, MSS >> 8, MSS & 255, 3, 3, SHIFT, 0 }, 8);
	head(f, out, 20 + options + len, 16);
	if (len > MSS) {
		link->gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
		link->gso_size = MSS;
	}
	struct iovec both[] = { { out, LINK + 40 + options }, { bytes, len } };
	if (writev(f->tun, both, len ? 2 : 1) < 0 && errno != EAGAIN)
		perror("least: write to the TUN");
	f->next += len + !!(flags & (TH_SYN | TH_FIN));
	f->said = f->expected;
}

static void forget(struct flow *f) {
	if (flows[!!f->tcp][ntohs(f->from)] == f)
		flows[!!f->tcp][ntohs(f->from)] = NULL;
	if (f->fd >= 0)
		close(f->fd);
	free(f->kept);
	free(f);
}

static struct flow *begin(int epoll, int tun, const struct iphdr *ip, uint16_t from, uint16_t to) {
	int is_tcp = ip->protocol == 6, mark = 1, one = 1;
	struct flow *old = flows[is_tcp][ntohs(from)];
	if (old)
		forget(old);
	struct flow *f = calloc(1, sizeof *f);
	*f = (struct flow){ .fd = socket(AF_INET, is_tcp ? SOCK_STREAM : SOCK_DGRAM, 0), .tun = tun, .ip = *ip, .from = from, .to = to, .tcp = is_tcp };
	struct sockaddr_in peer = { .sin_family = AF_INET, .sin_port = to, .sin_addr.s_addr = ip->daddr };
	if (f->fd < 0 || setsockopt(f->fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark))
		fail("least: socket");
	if (is_tcp)
		setsockopt(f->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (connect(f->fd, (void *)&peer, sizeof peer))
		perror("least: connect");
	struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP | EPOLLET | (is_tcp ? EPOLLOUT : 0), .data.u32 = (uint32_t)is_tcp << 16 | ntohs(from) };
	epoll_ctl(epoll, EPOLL_CTL_ADD, f->fd, &event);
	f->writable = 1;
	return flows[is_tcp][ntohs(from)] = f;
}

// What waits goes upstream, then the program's end.
static void push(struct flow *f) {
	while (f->kept_len && f->writable) {
		ssize_t sent = send(f->fd, f->kept + f->kept_from, f->kept_len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0) {
			f->writable = 0;
			return;
		}
		f->kept_len -= sent;
		f->kept_from = f->kept_len ? f->kept_from + sent : 0;
	}
	if (f->finished && !f->shut) {
		shutdown(f->fd, SHUT_WR);
		f->shut = 1;
	}
}

// The bytes of a batch go upstream; what the socket does not take is kept.
static void send_all(struct flow *f, struct iovec *parts, int count) {
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = count };
	ssize_t sent = f->writable && !f->kept_len ? sendmsg(f->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
	if (sent < 0)
		sent = 0;
	for (int i = 0; i < count; i++) {
		ssize_t len = parts[i].iov_len, left = sent < len ? len - sent : 0;
		if (left) {
			if (!f->kept)
				f->kept = malloc(2 * WINDOW);
			if (f->kept_from && f->kept_from + f->kept_len + left > 2 * WINDOW) {
				memmove(f->kept, f->kept + f->kept_from, f->kept_len);
				f->kept_from = 0;
			}
			if (!f->kept || f->kept_from + f->kept_len + left > 2 * WINDOW)
				fail("least: more came than was asked for");
			memcpy(f->kept + f->kept_from + f->kept_len, (uint8_t *)parts[i].iov_base + len - left, left);
			f->kept_len += left;
			f->writable = 0;
		}
		sent -= len - left;
	}
}

static void pull(struct flow *f, uint8_t *buffer) {
	if (!f->tcp) {
		for (ssize_t len; (len = recv(f->fd, buffer + LINK + 28, 65507, MSG_DONTWAIT)) >= 0;) {
			*(struct udphdr *)(buffer + LINK + 20) = (struct udphdr){ .source = f->to, .dest = f->from, .len = htons(8 + len) };
			head(f, buffer, 8 + len, 6);
			if (write(f->tun, buffer, LINK + 28 + len) < 0 && errno != EAGAIN)
				perror("least: write to the TUN");
		}
		f->readable = 0;
		return;
	}
	for (int turn = 0; turn < 8 && f->readable && !f->ended; turn++) {
		int32_t room = f->acked + f->room - f->next, most = 65483 / MSS * MSS;
		if (room < MSS)
			return;
		ssize_t len = recv(f->fd, buffer, room < most ? room : most, MSG_DONTWAIT);
		if (len > 0) {
			to_program(f, TH_ACK | TH_PUSH, buffer, len);
			continue;
		}
		f->readable = 0;
		if (len == 0) {
			f->ended = 1;
			to_program(f, TH_FIN | TH_ACK, NULL, 0);
		}
	}
}

static int shift_of(const struct tcphdr *tcp) {
	const uint8_t *at = (const uint8_t *)(tcp + 1), *end = (const uint8_t *)tcp + tcp->doff * 4;
	while (at < end && *at) {
		if (*at == 3)
			return at[2];
		at += *at == 1 ? 1 : at[1] ? at[1] : 1;
	}
	return 0;
}

struct shard {
	int tun, epoll, dirty_count, oldest;
	struct flow *dirty[1024];
	uint16_t udp[UDP_FLOWS];
};

static void mark(struct shard *s, struct flow *f) {
	if (!f->dirty && s->dirty_count < 1024) {
		f->dirty = 1;
		s->dirty[s->dirty_count++] = f;
	}
}

// One packet of a program: its flow, and the bytes that go on.
static struct flow *take(struct shard *s, uint8_t *packet, ssize_t len, struct iovec *bytes) {
	struct iphdr *ip = (void *)(packet + LINK);
	bytes->iov_len = 0;
	if (len < LINK + 28 || ip->version != 4 || ip->ihl != 5)
		return NULL;
	if (ip->protocol == 17) {
		struct udphdr *udp = (void *)(ip + 1);
		struct flow *f = flows[0][ntohs(udp->source)];
		if (!f || f->ip.daddr != ip->daddr || f->to != udp->dest) {
			// As many as can be; each could still be answered.
			struct flow *last = flows[0][s->udp[s->oldest]];
			if (last && last->tun == s->tun)
				forget(last);
			f = begin(s->epoll, s->tun, ip, udp->source, udp->dest);
			s->udp[s->oldest] = ntohs(udp->source);
			s->oldest = (s->oldest + 1) % UDP_FLOWS;
		}
		send(f->fd, udp + 1, len - LINK - 28, MSG_DONTWAIT);
		return NULL;
	}
	if (ip->protocol != 6)
		return NULL;
	struct tcphdr *tcp = (void *)(ip + 1);
	struct flow *f = flows[1][ntohs(tcp->source)];
	int flags = ((uint8_t *)tcp)[13];
	if (flags & TH_SYN) {
		f = begin(s->epoll, s->tun, ip, tcp->source, tcp->dest);
		f->shift = shift_of(tcp);
		f->expected = ntohl(tcp->seq) + 1;
		f->next = 1000;
		to_program(f, TH_SYN | TH_ACK, NULL, 0);
		return NULL;
	}
	if (!f)
		return NULL;
	f->acked = ntohl(tcp->ack_seq);
	f->room = (uint32_t)ntohs(tcp->window) << f->shift;
	mark(s, f);
	*bytes = (struct iovec){ (uint8_t *)tcp + tcp->doff * 4, len - LINK - 20 - tcp->doff * 4 };
	if (ntohl(tcp->seq) != f->expected)
		bytes->iov_len = 0;
	f->expected += bytes->iov_len;
	if (flags & TH_FIN && !f->finished) {
		f->finished = 1;
		f->expected++;
	}
	if (flags & TH_RST)
		f->finished = f->ended = f->shut = 1;
	return f;
}

static int read_batch(struct shard *s, uint8_t *buffers) {
	struct iovec parts[BATCH], bytes;
	struct flow *run = NULL;
	int count = 0, packets = 0;
	for (; packets < BATCH; packets++) {
		uint8_t *packet = buffers + (size_t)packets * (LINK + PACKET);
		ssize_t len = read(s->tun, packet, LINK + PACKET);
		if (len < 0)
			break;
		struct flow *f = take(s, packet, len, &bytes);
		if (run && run != f) {
			send_all(run, parts, count);
			run = NULL;
			count = 0;
		}
		if (f && bytes.iov_len) {
			run = f;
			parts[count++] = bytes;
		}
	}
	if (run)
		send_all(run, parts, count);
	return packets;
}

static void turn(struct shard *s, uint8_t *buffer) {
	for (int i = 0; i < s->dirty_count; i++) {
		struct flow *f = s->dirty[i];
		f->dirty = 0;
		if (f->tcp) {
			push(f);
			if (f->said != f->expected)
				to_program(f, TH_ACK, NULL, 0);
		}
		if (f->readable)
			pull(f, buffer);
		if (f->shut && f->ended && f->acked == f->next)
			forget(f);
	}
	s->dirty_count = 0;
}

static _Noreturn void *run(void *tun) {
	struct shard *s = calloc(1, sizeof *s);
	s->tun = (int)(intptr_t)tun;
	s->epoll = epoll_create1(0);
	struct epoll_event events[64], event = { .events = EPOLLIN | EPOLLET, .data.u32 = UINT32_MAX };
	epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->tun, &event);
	uint8_t *buffers = calloc(BATCH, LINK + PACKET), *buffer = calloc(1, LINK + PACKET);
	uint64_t busy = now_ns();
	for (int ready = 1;;) {
		int packets = 0;
		for (int batch = 0; ready && batch < 5; batch++) {
			int got = read_batch(s, buffers);
			packets += got;
			ready = got == BATCH;
		}
		turn(s, buffer);
		int count = epoll_wait(s->epoll, events, 64, packets || ready || now_ns() - busy < SPIN_NS ? 0 : -1);
		if (packets || count > 0)
			busy = now_ns();
		else if (!count)
			sched_yield();
		for (int i = 0; i < count; i++) {
			uint32_t which = events[i].data.u32;
			if (which == UINT32_MAX) {
				ready = 1;
				continue;
			}
			struct flow *f = flows[which >> 16][which & 65535];
			if (!f || f->tun != s->tun)
				continue;
			uint32_t waited = f->kept_len;
			f->readable |= !!(events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR));
			f->writable |= !!(events[i].events & EPOLLOUT);
			if (waited) {
				push(f);
				if (waited > WINDOW / 2 && f->kept_len <= WINDOW / 2)
					to_program(f, TH_ACK, NULL, 0);
			}
			mark(s, f);
		}
	}
}

int main(int count, char **words) {
	int queues = count > 1 ? atoi(words[1]) : 2;
	pthread_t thread;
	for (int i = 0; i < queues; i++) {
		struct ifreq request = { .ifr_name = "least0", .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE };
		int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
		if (tun < 0 || ioctl(tun, TUNSETIFF, &request) || ioctl(tun, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6))
			fail("least: /dev/net/tun");
		pthread_create(&thread, NULL, run, (void *)(intptr_t)tun);
	}
	// Ready when somebody can see the device; ends with its input.
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF) {}
	return 0;
}
