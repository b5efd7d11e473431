/**
 * Decides what the one live stream of a browser does: which topics, when to connect again, what
 * each tab gets. Pure: events and the time go in, steps come out. `runner.ts` does them.
 */
import { isObject, parsed, type Json } from '../pure/json'
import type { ServerEvent } from './sse'

/** The hub refuses more. */
export const TOPICS_MAX = 16
/** First pause before connecting again, in milliseconds; it doubles. */
export const PAUSE_FIRST = 1_000
/** Longest pause, in milliseconds. */
export const PAUSE_MAX = 30_000
/** A page that is left for another asks anew within moments: topics are kept so long, in milliseconds. */
export const LINGER = 1_500
/** Without a sign of life for so long the stream is dead; the hub comments every 15 s. */
export const SILENCE_MAX = 40_000
/** Log lines that are kept for a second tab on the same log. */
const LOG_LINES_MAX = 1_000

export type LiveState = { kind: 'idle' | 'connecting' | 'live' } | { kind: 'waiting'; until: number; reason: string } | { kind: 'signedOut'; reason: string }
export type ToTab =
  | { kind: 'state'; state: LiveState }
  | { kind: 'update'; topic: string; dropped: number; data: Json }
  | { kind: 'gone'; topic: string; reason: string }
  | { kind: 'missed'; count: number }
export type Step =
  | { do: 'connect'; topics: string[]; lastId: string }
  | { do: 'topics'; stream: string; topics: string[] }
  | { do: 'disconnect' }
  | { do: 'tell'; tab: string; message: ToTab }

export class LiveCore {
  private readonly tabs = new Map<string, Set<string>>()
  private readonly lingering = new Map<string, number>()
  /** The newest state of each topic, for tabs that join later. */
  private readonly kept = new Map<string, Json>()
  private state: LiveState = { kind: 'idle' }
  private stream = ''
  private lastId = ''
  /** What the hub was told last. */
  private told: string[] = []
  private attempts = 0
  private heard = 0
  private steps: Step[] = []

  /** `random` gives 0 to 1, so that browsers do not come back all at once. */
  constructor(private readonly random: () => number) {}

  handleJoin(tab: string): void {
    if (!this.tabs.has(tab)) this.tabs.set(tab, new Set())
    // A new sign-in revives the stream of a session that was over.
    if (this.state.kind === 'signedOut') this.setState({ kind: 'idle' })
    this.tell(tab, { kind: 'state', state: this.state })
  }

  handleLeave(tab: string, now: number): void {
    for (const topic of this.tabs.get(tab) ?? []) this.lingering.set(topic, now + LINGER)
    this.tabs.delete(tab)
  }

  /** A tab says all it wants to follow. */
  handleTopics(tab: string, topics: string[], now: number): void {
    const before = this.tabs.get(tab) ?? new Set()
    this.tabs.set(tab, new Set(topics))
    for (const topic of before) if (!this.wanted().includes(topic)) this.lingering.set(topic, now + LINGER)
    for (const topic of topics) {
      this.lingering.delete(topic)
      const kept = this.kept.get(topic)
      if (!before.has(topic) && kept !== undefined) this.tell(tab, { kind: 'update', topic, dropped: 0, data: kept })
    }
  }

  /** The person asks to connect now. */
  handleRetry(): void {
    if (this.state.kind === 'waiting') this.setState({ kind: 'idle' })
  }

  handleEvent(event: ServerEvent, now: number): void {
    this.heard = now
    if (event.id !== '') this.lastId = event.id
    const data = parsed(event.data)
    if (!isObject(data)) return
    if (event.kind === 'hello') this.handleHello(data)
    else if (event.kind === 'bye') this.handleBye(String(data.reason), now)
    else if (typeof data.topic === 'string' && event.kind === 'update') this.handleUpdate(data.topic, Number(data.dropped ?? 0), data.data ?? null)
    else if (typeof data.topic === 'string' && event.kind === 'gone') {
      this.kept.delete(data.topic)
      this.spread(data.topic, { kind: 'gone', topic: data.topic, reason: String(data.reason) })
    }
  }

  /** A comment or part of an event: the stream lives. */
  handleSign(now: number): void {
    this.heard = now
  }

  private handleHello(data: { [key: string]: Json }): void {
    this.stream = String(data.stream)
    this.told = Array.isArray(data.topics) ? data.topics.map(String) : this.told
    this.attempts = 0
    if (data.resumed !== true) this.kept.clear()
    this.setState({ kind: 'live' })
    const missed = Number(data.missed ?? 0)
    if (missed > 0) for (const tab of this.tabs.keys()) this.tell(tab, { kind: 'missed', count: missed })
  }

  private handleBye(reason: string, now: number): void {
    this.stream = ''
    if (reason === 'signedOut' || reason === 'expired') this.setState({ kind: 'signedOut', reason })
    else this.pause(reason === 'stopping' ? 'the hub is stopping' : 'this browser was too slow for the stream', now)
  }

  private handleUpdate(topic: string, dropped: number, data: Json): void {
    this.keep(topic, data)
    this.spread(topic, { kind: 'update', topic, dropped, data })
  }

  private keep(topic: string, data: Json): void {
    if (topic.startsWith('telemetry:') || topic === 'changes') return
    const before = this.kept.get(topic)
    if (topic.startsWith('logs:') && isObject(before) && isObject(data) && Array.isArray(before.lines) && Array.isArray(data.lines)) {
      this.kept.set(topic, { ...data, lines: [...before.lines, ...data.lines].slice(-LOG_LINES_MAX) })
    } else this.kept.set(topic, data)
  }

  /** The connection ended; `status` is 0 if there was no answer, 200 if it broke later. */
  handleClosed(status: number, now: number): void {
    this.stream = ''
    if (this.state.kind === 'signedOut' || this.state.kind === 'waiting') return
    if (status === 401) this.setState({ kind: 'signedOut', reason: 'expired' })
    else if (this.tabs.size === 0) this.setState({ kind: 'idle' })
    else this.pause(status === 0 || status === 200 ? 'the hub cannot be reached' : status === 429 ? 'the hub has too many live readers' : `the hub answered ${status}`, now)
  }

  /** The hub does not know the stream any more, or refused the topics. */
  handleTopicsRefused(status: number, reason: string): void {
    if (status === 400) {
      // One wrong topic must not silence the others: the tab that asked is told, the rest goes on.
      const filters = this.told.filter((topic) => topic.includes('?'))
      // Without a filter nothing can be singled out; none is asked for again, or it would never end.
      const wrong = filters.length > 0 ? filters : this.told
      for (const topic of wrong) {
        this.spread(topic, { kind: 'gone', topic, reason })
        this.lingering.delete(topic)
        for (const topics of this.tabs.values()) topics.delete(topic)
      }
      this.told = []
    } else this.stream = ''
  }

  private pause(reason: string, now: number): void {
    const pause = Math.min(PAUSE_MAX, PAUSE_FIRST * 2 ** this.attempts)
    this.attempts += 1
    this.setState({ kind: 'waiting', until: now + pause * (0.5 + this.random() / 2), reason })
  }

  /** What to do now, and when to ask again at the latest. */
  poll(now: number): { steps: Step[]; next: number } {
    for (const [topic, until] of this.lingering) {
      if (until > now) continue
      this.lingering.delete(topic)
      if (!this.wanted().includes(topic)) this.kept.delete(topic)
    }
    const topics = this.wanted()
    if (this.state.kind === 'waiting' && now >= this.state.until) this.setState({ kind: 'idle' })
    if (this.state.kind === 'idle' && this.tabs.size > 0 && topics.length > 0) {
      this.told = topics
      this.heard = now
      this.setState({ kind: 'connecting' })
      this.steps.push({ do: 'connect', topics, lastId: this.lastId })
    } else if (this.state.kind === 'live') this.pollLive(topics, now)
    const steps = this.steps
    this.steps = []
    const times = [now + 5_000, ...this.lingering.values()]
    if (this.state.kind === 'waiting') times.push(this.state.until)
    return { steps, next: Math.max(now + 20, Math.min(...times)) }
  }

  private pollLive(topics: string[], now: number): void {
    if (this.tabs.size === 0 && this.lingering.size === 0) {
      this.steps.push({ do: 'disconnect' })
      this.stream = ''
      this.lastId = ''
      this.kept.clear()
      this.setState({ kind: 'idle' })
    } else if (now - this.heard > SILENCE_MAX) {
      this.steps.push({ do: 'disconnect' })
      this.pause('the stream fell silent', now)
    } else if (this.stream !== '' && topics.join('\n') !== [...this.told].sort().join('\n')) {
      this.told = topics
      this.steps.push({ do: 'topics', stream: this.stream, topics })
    }
  }

  private wanted(): string[] {
    const all = new Set([...this.tabs.values()].flatMap((topics) => [...topics]))
    for (const topic of this.lingering.keys()) all.add(topic)
    // Those that tabs look at now come before those that linger.
    const inUse = [...all].filter((topic) => !this.lingering.has(topic))
    const rest = [...all].filter((topic) => this.lingering.has(topic))
    return [...inUse, ...rest].slice(0, TOPICS_MAX).sort()
  }

  private setState(state: LiveState): void {
    this.state = state
    for (const tab of this.tabs.keys()) this.tell(tab, { kind: 'state', state })
  }

  private spread(topic: string, message: ToTab): void {
    for (const [tab, topics] of this.tabs) if (topics.has(topic)) this.tell(tab, message)
  }

  private tell(tab: string, message: ToTab): void {
    this.steps.push({ do: 'tell', tab, message })
  }
}
