/** Rows of a telemetry tab: what was there before by page, what comes after by the stream, without a gap between. */
import { useEffect, useRef, useState } from 'react'

import { firstOffset, messagesFrom } from '../../api/queries'
import type { Message, TelemetryRows } from '../../api/types'
import { useLive, useLiveState } from '../../live/browser'
import { Rows } from '../../pure/telemetry'

/** Pages that are read to catch up with the stream; a longer gap stays one. */
const PAGES_MAX = 5

export type Problems = { read?: unknown; refused?: string }
type Shown = { rows: Rows; version: number; problems: Problems; waiting: number }

export function useRows(device: string, module: string | undefined, filter: string | undefined, paused: boolean): Shown {
  const [rows] = useState(() => new Rows())
  const [version, setVersion] = useState(0)
  const [problems, setProblems] = useState<Problems>({})
  const held = useRef<{ messages: Message[]; dropped: number }>({ messages: [], dropped: 0 })
  /** Where the next page begins; undefined before the first was read. */
  const next = useRef<number>(undefined)
  const reading = useRef(false)
  const caughtUp = useRef(false)
  const pausing = useRef(paused)
  const live = useLiveState().kind === 'live'
  const topic = `telemetry:${encodeURIComponent(device)}${module === undefined ? '' : `/${encodeURIComponent(module)}`}${filter === undefined ? '' : `?${filter}`}`

  const flush = (): void => {
    if (pausing.current || reading.current) return
    const { messages, dropped } = held.current
    held.current = { messages: [], dropped: 0 }
    rows.take(messages, dropped)
    setVersion(rows.version)
  }
  /** Reads what the hub has up to now. The hub filters only the stream, so a filter starts from now. */
  const read = async (signal: AbortSignal): Promise<void> => {
    if (filter !== undefined || reading.current) return
    reading.current = true
    const before: Message[] = []
    try {
      next.current ??= await firstOffset(device, signal)
      for (let page = 0; page < PAGES_MAX; page += 1) {
        const got = await messagesFrom(device, next.current, signal)
        before.push(...got.messages.filter((message) => module === undefined || message.moduleId === module))
        next.current = got.next
        if (got.next >= got.end) break
      }
      setProblems(({ read: _, ...rest }) => rest)
    } catch (error) {
      if (!signal.aborted) setProblems((held) => ({ ...held, read: error }))
    } finally {
      reading.current = false
      held.current.messages = before.concat(held.current.messages)
      if (!signal.aborted) flush()
    }
  }
  const abort = useRef(new AbortController())
  useEffect(() => {
    abort.current = new AbortController()
    void read(abort.current.signal)
    return () => abort.current.abort()
    // Once for each list: another device, module or filter is another list.
  }, [])
  useEffect(() => {
    // Whatever was sent while the stream was away is read again.
    if (!live) caughtUp.current = false
  }, [live])
  useEffect(() => {
    pausing.current = paused
    flush()
  }, [paused])
  useLive(
    topic,
    ({ data, dropped }) => {
      const news = data as unknown as TelemetryRows
      const { messages } = held.current
      messages.push(...news.rows)
      held.current.dropped += dropped + news.skipped
      // While paused the newest wait; more than the list holds are let go and counted.
      const over = messages.length - rows.ring.capacity
      if (over > 0) {
        messages.splice(0, over)
        held.current.dropped += over
      }
      if (!caughtUp.current && !reading.current) {
        // The stream runs: what came between the first page and its beginning is read once more.
        caughtUp.current = true
        void read(abort.current.signal)
      }
      flush()
      if (pausing.current) setVersion((value) => value + 0.001)
    },
    (refused) => setProblems((before) => ({ ...before, refused })),
  )
  return { rows, version, problems, waiting: held.current.messages.length }
}
