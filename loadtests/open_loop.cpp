// An open-loop HTTP/1.1 load generator: requests are due on a Poisson schedule that does not care how the server is doing,
// and a request's latency counts from the moment it was due. So a stall is felt by every request that was due in it,
// however late the generator came to send them (no coordinated omission).
//
// usage: open_loop PORT PATH BODY_FILE RATE SECONDS CONNECTIONS [SEED [HEADER ...]]
// Prints one JSON object: sent, answers by status, latency quantiles of the 2xx in seconds, how late requests were sent.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <vector>

static double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

struct Connection {
    int fd = -1;
    double due = 0;
    bool busy = false;
    std::string in;
};

static int dial(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(uint16_t(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) { std::perror("connect"); std::exit(1); }
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

// The length of the first complete answer in `text`, 0 when it is not complete.
static size_t complete(const std::string& text) {
    size_t head = text.find("\r\n\r\n");
    if (head == std::string::npos) return 0;
    size_t length = 0;
    for (size_t line = text.find("\r\n"); line < head; line = text.find("\r\n", line + 2))
        if (strncasecmp(text.c_str() + line + 2, "content-length:", 15) == 0)
            length = std::strtoul(text.c_str() + line + 17, nullptr, 10);
    size_t all = head + 4 + length;
    return text.size() >= all ? all : 0;
}

static double quantile(const std::vector<double>& sorted, double q) {
    return sorted.empty() ? 0 : sorted[std::min(sorted.size() - 1, size_t(q * double(sorted.size())))];
}

int main(int argc, char** argv) {
    if (argc < 7) { std::fprintf(stderr, "usage: open_loop PORT PATH BODY_FILE RATE SECONDS CONNECTIONS [SEED [HEADER ...]]\n"); return 2; }
    const int port = std::atoi(argv[1]);
    const double rate = std::atof(argv[4]), seconds = std::atof(argv[5]);
    const size_t count = std::strtoul(argv[6], nullptr, 10);
    std::ifstream file(argv[3], std::ios::binary);
    const std::string body((std::istreambuf_iterator<char>(file)), {});
    std::string request = std::string("POST ") + argv[2] + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    for (int i = 8; i < argc; ++i) request += std::string(argv[i]) + "\r\n";
    request += "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;

    std::vector<Connection> connections(count);
    std::vector<size_t> idle;
    const int poller = epoll_create1(0);
    for (size_t i = 0; i < count; ++i) {
        connections[i].fd = dial(port);
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = i;
        epoll_ctl(poller, EPOLL_CTL_ADD, connections[i].fd, &event);
        idle.push_back(i);
    }
    std::mt19937_64 random(argc > 7 ? std::strtoull(argv[7], nullptr, 10) : 1);
    std::exponential_distribution<double> gap(rate);
    std::deque<double> waiting;  // due, and no connection was free
    std::map<int, size_t> statuses;
    std::vector<double> latencies, lateness;
    latencies.reserve(size_t(rate * seconds * 1.1));
    lateness.reserve(latencies.capacity());
    const double start = now() + 0.05, end = start + seconds;
    double next = start + gap(random);
    size_t sent = 0, outstanding = 0, reconnects = 0, most_waiting = 0;
    std::vector<epoll_event> events(1024);
    std::vector<char> buffer(1 << 16);

    while (true) {
        double t = now();
        while (next <= t && next < end) { waiting.push_back(next); next += gap(random); }
        most_waiting = std::max(most_waiting, waiting.size());
        while (!waiting.empty() && !idle.empty()) {
            Connection& c = connections[idle.back()];
            idle.pop_back();
            c.due = waiting.front();
            waiting.pop_front();
            c.busy = true;
            lateness.push_back(now() - c.due);
            if (send(c.fd, request.data(), request.size(), MSG_NOSIGNAL) != ssize_t(request.size())) { std::perror("send"); return 1; }
            ++sent;
            ++outstanding;
        }
        if (next >= end && outstanding == 0 && waiting.empty()) break;
        if (t > end + 30) break;
        double wait = next < end ? next - now() : 0.01;
        // Below the timer's grain it polls: a generator that oversleeps would be late for everybody.
        int timeout = wait > 0.002 ? int(wait * 1e3) - 1 : 0;
        int ready = epoll_wait(poller, events.data(), int(events.size()), timeout);
        t = now();
        for (int i = 0; i < ready; ++i) {
            const size_t at = events[size_t(i)].data.u64;
            Connection& c = connections[at];
            ssize_t got = recv(c.fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
            if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
            bool closed = got <= 0;
            if (!closed) c.in.append(buffer.data(), size_t(got));
            size_t length;
            while ((length = complete(c.in)) != 0) {
                const int status = std::atoi(c.in.c_str() + 9);
                ++statuses[status];
                if (status / 100 == 2) latencies.push_back(t - c.due);
                closed = closed || c.in.find("onnection: close") < length;
                c.in.erase(0, length);
                c.busy = false;
                --outstanding;
                if (!closed) idle.push_back(at);
            }
            if (closed) {
                if (c.busy) { ++statuses[0]; --outstanding; c.busy = false; }
                close(c.fd);
                ++reconnects;
                c.fd = dial(port);
                c.in.clear();
                epoll_event event{};
                event.events = EPOLLIN;
                event.data.u64 = at;
                epoll_ctl(poller, EPOLL_CTL_ADD, c.fd, &event);
                idle.push_back(at);
            }
        }
    }
    std::sort(latencies.begin(), latencies.end());
    std::sort(lateness.begin(), lateness.end());
    std::printf("{\"offered\":%.1f,\"sent\":%zu,\"unanswered\":%zu,\"reconnects\":%zu,\"most_waiting\":%zu,\"seconds\":%.3f,\"statuses\":{",
                rate, sent, outstanding, reconnects, most_waiting, seconds);
    bool first = true;
    for (auto [status, n] : statuses) { std::printf("%s\"%d\":%zu", first ? "" : ",", status, n); first = false; }
    std::printf("},\"latency\":{");
    first = true;
    for (auto [name, q] : {std::pair{"p50", .5}, {"p90", .9}, {"p99", .99}, {"p999", .999}, {"max", 1.0}}) {
        std::printf("%s\"%s\":%.6f", first ? "" : ",", name, quantile(latencies, q));
        first = false;
    }
    std::printf("},\"lateness_p99\":%.6f}\n", quantile(lateness, .99));
}
