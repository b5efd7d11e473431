/** A tab's end of the live stream: topics are followed while somebody is looking. */
import { useEffect, useRef, useSyncExternalStore } from 'react'

import type { Json } from '../pure/json'
import type { LiveState, ToTab } from './core'
import { Runner, type FromTab } from './runner'

/** Tabs with another version of these messages do not share a worker. */
const MESSAGES_VERSION = 1

export type Update = { dropped: number; data: Json }
type Listener = { update: (update: Update) => void; gone: ((reason: string) => void) | undefined }

const listeners = new Map<string, Set<Listener>>()
const watchers = new Set<() => void>()
let state: LiveState = { kind: 'idle' }
let heardAt = 0
let missed = 0
let send: ((message: FromTab) => void) | undefined
let telling = false
let joined: FromTab | undefined

function receive(message: ToTab): void {
  heardAt = Date.now()
  if (message.kind === 'state') state = message.state
  else if (message.kind === 'missed') missed += message.count
  else {
    for (const listener of listeners.get(message.topic) ?? []) {
      if (message.kind === 'update') listener.update(message)
      else listener.gone?.(message.reason)
    }
    return
  }
  for (const watcher of watchers) watcher()
}

/** Connects this tab; called once after each sign-in. */
export function startLive(csrf: string): void {
  if (send === undefined) send = shared() ?? alone()
  const lock = `selvedge-${crypto.randomUUID()}`
  const join = (): void => {
    joined = { kind: 'join', csrf, lock }
    send?.(joined)
    tellTopics()
  }
  if (navigator.locks === undefined) return join()
  // Held until the tab is gone. The worker waits for the same lock, so it must be held before it is named.
  void navigator.locks.request(lock, () => {
    join()
    return new Promise(() => undefined)
  })
}

function shared(): ((message: FromTab) => void) | undefined {
  if (typeof SharedWorker === 'undefined' || navigator.locks === undefined) return undefined
  try {
    const worker = new SharedWorker(new URL('./worker.ts', import.meta.url), { type: 'module', name: `selvedge-live-${MESSAGES_VERSION}` })
    worker.port.onmessage = ({ data }: MessageEvent<ToTab>) => receive(data)
    // Its script could not be fetched, or it ended with an error: this tab goes on by itself.
    worker.onerror = () => {
      send = alone()
      if (joined) send(joined)
      tellTopics()
    }
    return (message) => worker.port.postMessage(message)
  } catch {
    return undefined
  }
}

/** Browsers without shared workers have one stream for each tab. */
function alone(): (message: FromTab) => void {
  const runner = new Runner()
  return (message) => runner.handle('tab', message, receive)
}

export function stopLive(): void {
  send?.({ kind: 'topics', topics: [] })
}

function tellTopics(): void {
  if (telling) return
  telling = true
  // A page that opens follows several topics in one turn.
  queueMicrotask(() => {
    telling = false
    send?.({ kind: 'topics', topics: [...listeners.keys()] })
  })
}

function follow(topic: string, listener: Listener): () => void {
  const held = listeners.get(topic) ?? new Set()
  held.add(listener)
  listeners.set(topic, held)
  if (held.size === 1) tellTopics()
  return () => {
    held.delete(listener)
    if (held.size > 0 || listeners.get(topic) !== held) return
    listeners.delete(topic)
    tellTopics()
  }
}

/** Follows a topic while the component is shown; undefined follows nothing. */
export function useLive(topic: string | undefined, update: (update: Update) => void, gone?: (reason: string) => void): void {
  const latest = useRef({ update, gone })
  useEffect(() => {
    latest.current = { update, gone }
  })
  useEffect(() => {
    if (topic === undefined) return undefined
    return follow(topic, { update: (news) => latest.current.update(news), gone: (reason) => latest.current.gone?.(reason) })
  }, [topic])
}

export function retryLive(): void {
  send?.({ kind: 'retry' })
}

export function useLiveState(): LiveState {
  return useSyncExternalStore(
    (watcher) => {
      watchers.add(watcher)
      return () => watchers.delete(watcher)
    },
    () => state,
  )
}

/** When the stream last brought anything, in milliseconds since 1970. */
export function lastHeard(): number {
  return heardAt
}

/** Updates that were lost for ever while this tab was cut off. */
export function missedUpdates(): number {
  return missed
}
