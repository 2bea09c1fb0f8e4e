#include "parallel.h"

#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

namespace flashmask {
namespace cpu {
namespace {

constexpr int kMaxThreads = 1024;

// The number in an environment variable, or 0. OMP_NUM_THREADS may be a list; its first number counts.
int CountFromEnvironment(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::max(0, std::atoi(text));
}

int AvailableCores() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int DefaultThreadCount() {
  if (const int count = CountFromEnvironment("FLASHMASK_NUM_THREADS")) return count;
  if (const int count = CountFromEnvironment("OMP_NUM_THREADS")) return count;
  return AvailableCores();
}

// A call of ParallelFor.
struct Job {
  const std::function<void(int64_t, int)>* body;
  int64_t items;
  std::atomic<int64_t> next{0};
  int wanted;   // workers that may still join; the pool's mutex guards this and the next two
  int threads;  // thread numbers handed out
  int active = 0;
};

void Work(Job* job, int thread) {
  for (int64_t item; (item = job->next.fetch_add(1, std::memory_order_relaxed)) < job->items;) {
    (*job->body)(item, thread);
  }
}

// Worker threads, started when first needed, that live as long as the process. A caller does all work that no worker
// takes, so jobs of several callers never wait for each other.
class Pool {
 public:
  // Never destroyed, because its threads may still wait when the process ends.
  static Pool& Get() {
    static Pool* pool = new Pool;
    return *pool;
  }

  void Run(int threads, int64_t items, const std::function<void(int64_t, int)>& body) {
    Job job;
    job.body = &body;
    job.items = items;
    job.wanted = threads - 1;
    job.threads = 1;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      StartWorkers(threads - 1);
      jobs_.push_back(&job);
    }
    for (int i = 1; i < threads; ++i) wake_.notify_one();
    Work(&job, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    const auto at = std::find(jobs_.begin(), jobs_.end(), &job);
    if (at != jobs_.end()) jobs_.erase(at);
    done_.wait(lock, [&] { return job.active == 0; });
  }

 private:
  void StartWorkers(int count) {
    try {
      for (; workers_ < count; ++workers_) std::thread(&Pool::Serve, this).detach();
    } catch (const std::system_error&) {
      // The process may not start more threads; the existing ones do the work.
    }
  }

  void Serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return !jobs_.empty(); });
      Job* job = jobs_.front();
      const int thread = job->threads++;
      ++job->active;
      if (--job->wanted == 0) jobs_.pop_front();
      lock.unlock();
      Work(job, thread);
      lock.lock();
      if (--job->active == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::deque<Job*> jobs_;
  int workers_ = 0;
};

}  // namespace

int ThreadCount(int threads) {
  // Read once, because it determines the size of the scratch before the work begins.
  static const int byDefault = std::min(DefaultThreadCount(), kMaxThreads);
  return threads > 0 ? std::min(threads, kMaxThreads) : byDefault;
}

void ParallelFor(int threads, int64_t items, const std::function<void(int64_t, int)>& body) {
  threads = static_cast<int>(std::min<int64_t>(threads, items));
  if (threads > 1) return Pool::Get().Run(threads, items, body);
  for (int64_t item = 0; item < items; ++item) body(item, 0);
}

}  // namespace cpu
}  // namespace flashmask
