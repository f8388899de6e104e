// Datagrams at a rate, plain and as super-packets: the sender, the batched receiver, and the searches of the clients.
//
// Rule: the clients ask for no privilege (a program under `exec` has none), so their receive buffer is what any program may have.
#include "traffic.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BATCH = 32, INTAKE = 64, LARGEST = 65536, BUFFER = 4 << 20 };

static char payload[LARGEST];

struct intake {
	struct mmsghdr messages[INTAKE];
	struct iovec parts[INTAKE];
	struct sockaddr_storage from[INTAKE];
	char bytes[INTAKE][LARGEST];
};

struct intake *make_intake(void) {
	struct intake *intake = calloc(1, sizeof *intake);
	if (!intake)
		fail("calloc");
	return intake;
}

int take(int fd, struct intake *intake) {
	for (int i = 0; i < INTAKE; i++) {
		intake->parts[i] = (struct iovec){ intake->bytes[i], LARGEST };
		intake->messages[i].msg_hdr = (struct msghdr){ .msg_name = &intake->from[i],
			                                       .msg_namelen = sizeof intake->from[i],
			                                       .msg_iov = &intake->parts[i],
			                                       .msg_iovlen = 1 };
	}
	return recvmmsg(fd, intake->messages, INTAKE, MSG_WAITFORONE, NULL);
}

const char *datagram(const struct intake *intake, int which, size_t *length, const struct sockaddr_storage **from, socklen_t *from_length) {
	*length = intake->messages[which].msg_len;
	if (from) {
		*from = &intake->from[which];
		*from_length = intake->messages[which].msg_hdr.msg_namelen;
	}
	return intake->bytes[which];
}

// Sends for the ordered time; the bytes that the kernel took.
uint64_t blast(int fd, const struct order *order, const struct sockaddr_storage *to, socklen_t length) {
	size_t call = (size_t)order->size * order->segments;
	struct iovec part = { payload, call };
	struct mmsghdr messages[BATCH] = { 0 };
	if (call > 65507 || (order->segments > 1 && set_option(fd, SOL_UDP, UDP_SEGMENT, (int)order->size)))
		return 0;
	for (int i = 0; i < BATCH; i++)
		messages[i].msg_hdr = (struct msghdr){ .msg_name = (void *)to, .msg_namelen = length, .msg_iov = &part, .msg_iovlen = 1 };
	uint64_t start = now_ns(), end = start + order->milliseconds * 1000000ull, sent = 0, now;
	while ((now = now_ns()) < end) {
		double due = order->rate ? (double)(now - start) / 1e9 * order->rate / order->segments - (double)sent : BATCH;
		if (due < 1) {
			nap_us(20);
			continue;
		}
		int taken = sendmmsg(fd, messages, due < BATCH ? (unsigned)due : BATCH, 0);
		if (taken > 0)
			sent += (uint64_t)taken;
		else if (errno == EAGAIN || errno == ENOBUFS)
			nap_us(50);
		else if (errno != ECONNREFUSED)
			break;
	}
	return sent * call;
}

struct step {
	uint64_t sent, received; // bytes
};

// Asks the sink for its count of bytes, which `tag` may reset; false where it is silent.
static int ask_sink(int fd, const char *tag, uint64_t *bytes) {
	for (int try = 0; try < 10; try++) {
		while (recv(fd, bytes, sizeof *bytes, MSG_DONTWAIT) > 0)
			;
		send(fd, tag, 4, 0);
		if (recv(fd, bytes, sizeof *bytes, 0) == sizeof *bytes)
			return 1;
	}
	return 0;
}

static struct step step_up(int fd, const struct order *order) {
	struct step step = { 0 };
	set_timeout(fd, 200);
	if (!ask_sink(fd, "ZERO", &step.received))
		fail("the sink is silent");
	nap_us(20000);
	step.sent = blast(fd, order, NULL, 0);
	nap_us(150000);
	if (order->segments > 1)
		set_option(fd, SOL_UDP, UDP_SEGMENT, 0);
	if (!ask_sink(fd, "STAT", &step.received))
		fail("the sink fell silent");
	return step;
}

static struct step step_down(int fd, const struct order *order, struct intake *intake) {
	struct step step = { 0 };
	int ready;
	set_timeout(fd, 400);
	send(fd, order, sizeof *order, 0);
	while (!step.sent && (ready = take(fd, intake)) > 0) {
		for (int i = 0; i < ready; i++) {
			size_t length;
			struct done done;
			const char *bytes = datagram(intake, i, &length, NULL, NULL);
			if (length >= sizeof done && !memcmp(bytes, "DONE", 4)) {
				memcpy(&done, bytes, sizeof done);
				step.sent = done.bytes;
			} else {
				step.received += length;
			}
		}
	}
	return step;
}

// Every step has a flow of its own, so that what is left of one cannot count in the next.
static struct step run_step(int down, const struct order *order) {
	static struct intake *intake;
	int fd = dial(SOCK_DGRAM);
	struct step step;
	if (fd < 0)
		fail("connect");
	if (!intake)
		intake = make_intake();
	set_option(fd, SOL_SOCKET, SO_RCVBUF, BUFFER);
	if (down && order->segments > 1)
		set_option(fd, SOL_UDP, UDP_GRO, 1);
	step = down ? step_down(fd, order, intake) : step_up(fd, order);
	close(fd);
	return step;
}

void find_rate(int down, uint32_t size) {
	struct order order = { "PUSH", size, 1, 1000, 50 };
	double low = 0, high = 0, rate = 40000, best = 0, lost = 0, seconds = 0.3;
	int sender_is_the_limit = 0;
	run_step(down, &order);
	order.milliseconds = 300;
	for (int i = 0; i < 12 && !sender_is_the_limit && !(high > 0 && high - low < 0.06 * high); i++) {
		order.rate = (uint32_t)rate;
		struct step step = run_step(down, &order);
		double loss = step.sent ? 1 - (double)step.received / (double)step.sent : 1;
		double got = (double)step.received / size / seconds;
		int good = loss < 0.01;
		if (good && got > best)
			best = got, lost = loss;
		if (good && (double)step.sent / size / seconds > 0.9 * rate)
			low = rate;
		else if (good)
			sender_is_the_limit = 1;
		else
			high = rate;
		rate = high > 0 ? (low + high) / 2 : rate * 2;
	}
	printf("{\"per_second\": %.0f, \"loss\": %.4f, \"sender_is_the_limit\": %s}\n", best, lost, sender_is_the_limit ? "true" : "false");
}

// A sender that takes all it can get starves router and receiver on the same cores, so paced steps follow the first one.
void super_packets(int down, double seconds) {
	static const double paces[] = { 0, 1.2, 1.0, 0.85 };
	enum { STEPS = sizeof paces / sizeof *paces };
	// 46 datagrams of 1400 bytes: as many as one call can carry.
	struct order order = { "PUSH", 1400, 46, 0, (uint32_t)(seconds * 1000 / STEPS) };
	struct step best = { 0 };
	for (int i = 0; i < STEPS; i++) {
		double each = order.milliseconds / 1e3 * order.size;
		order.rate = (uint32_t)(paces[i] * (double)best.received / each);
		struct step step = run_step(down, &order);
		if (step.received > best.received)
			best = step;
		if (!best.received)
			break;
	}
	double scale = 8 / 1e9 / (order.milliseconds / 1e3);
	printf("{\"received_gbps\": %.2f, \"sent_gbps\": %.2f}\n", (double)best.received * scale, (double)best.sent * scale);
}
