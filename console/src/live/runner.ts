/** Does what the core decides: one fetch that reads the stream, one timer. Runs in the shared worker, or in a tab. */
import { query } from '../pure/query'
import { LiveCore, type ToTab } from './core'
import { EventReader } from './sse'

/** The hub answers the head of the stream at once; longer is a dead connection, in milliseconds. */
const CONNECT_MS_MAX = 10_000

export type FromTab = { kind: 'join'; csrf: string; lock: string } | { kind: 'topics'; topics: string[] } | { kind: 'retry' } | { kind: 'leave' }

export class Runner {
  private readonly core = new LiveCore(Math.random)
  private readonly tabs = new Map<string, (message: ToTab) => void>()
  private csrf = ''
  private abort: AbortController | undefined
  private timer: ReturnType<typeof setTimeout> | undefined

  handle(tab: string, message: FromTab, post: (message: ToTab) => void): void {
    const now = Date.now()
    if (message.kind === 'join') {
      this.csrf = message.csrf
      this.tabs.set(tab, post)
      this.core.handleJoin(tab)
    } else if (message.kind === 'topics') this.core.handleTopics(tab, message.topics, now)
    else if (message.kind === 'retry') this.core.handleRetry()
    else {
      this.core.handleLeave(tab, now)
      this.tabs.delete(tab)
    }
    this.turn()
  }

  private turn(): void {
    clearTimeout(this.timer)
    const now = Date.now()
    const { steps, next } = this.core.poll(now)
    for (const step of steps) {
      if (step.do === 'tell') this.tabs.get(step.tab)?.(step.message)
      else if (step.do === 'connect') void this.connect(step.topics, step.lastId)
      else if (step.do === 'topics') void this.tellTopics(step.stream, step.topics)
      else this.abort?.abort()
    }
    if (this.tabs.size > 0 || steps.length > 0) this.timer = setTimeout(() => this.turn(), next - now)
  }

  private async connect(topics: string[], lastId: string): Promise<void> {
    this.abort?.abort()
    const abort = new AbortController()
    this.abort = abort
    const late = setTimeout(() => abort.abort(), CONNECT_MS_MAX)
    let status = 0
    try {
      const headers: Record<string, string> = { accept: 'text/event-stream' }
      if (lastId !== '') headers['last-event-id'] = lastId
      const response = await fetch(`/api/v1/events?${query(topics.map((topic) => ['topic', topic] as const))}`, { headers, signal: abort.signal, credentials: 'same-origin', cache: 'no-store' })
      clearTimeout(late)
      status = response.status
      if (status === 400) this.core.handleTopicsRefused(400, await reason(response))
      else if (response.ok && response.body) await this.read(response.body, abort)
    } catch {
      // The connection ended; the core is told below whatever the cause.
    } finally {
      clearTimeout(late)
    }
    if (this.abort !== abort) return
    this.abort = undefined
    this.core.handleClosed(status, Date.now())
    this.turn()
  }

  private async read(body: ReadableStream<Uint8Array>, abort: AbortController): Promise<void> {
    const reader = body.getReader()
    const decoder = new TextDecoder()
    const events = new EventReader()
    for (;;) {
      const { done, value } = await reader.read()
      if (done || this.abort !== abort) return
      this.core.handleSign(Date.now())
      for (const event of events.read(decoder.decode(value, { stream: true }))) this.core.handleEvent(event, Date.now())
      this.turn()
    }
  }

  private async tellTopics(stream: string, topics: string[]): Promise<void> {
    try {
      const response = await fetch(`/api/v1/events/${encodeURIComponent(stream)}/topics`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'x-selvedge-csrf': this.csrf },
        body: JSON.stringify({ topics }),
        credentials: 'same-origin',
        signal: AbortSignal.timeout(CONNECT_MS_MAX),
      })
      if (response.ok) return
      this.core.handleTopicsRefused(response.status, await reason(response))
      // The stream is not ours any more: a new one is opened.
      if (response.status !== 400) this.abort?.abort()
    } catch {
      this.abort?.abort()
    }
    this.turn()
  }
}

async function reason(response: Response): Promise<string> {
  try {
    const body: unknown = await response.json()
    const message = (body as { Message?: unknown }).Message
    return typeof message === 'string' ? message.replace(/^ErrorCode:\w+;/u, '') : `the hub answered ${response.status}`
  } catch {
    return `the hub answered ${response.status}`
  }
}
