/** Rows of a telemetry tab: what was there before by page, what comes after by the stream, without a gap between. */
import { useEffect, useRef, useState } from 'react'

import { Failure } from '../../api/client'
import { firstPlace, messagesFrom, type Wanted } from '../../api/queries'
import type { Message, TelemetryRows } from '../../api/types'
import { useLive, useLiveState } from '../../live/browser'
import { Rows } from '../../pure/telemetry'

/** Pages of earlier messages that are read in a row; what is left out then is said. */
const PAGES_MAX = 150

/** What went wrong, or is not there: `cut` tells from when to when nothing was read. */
export type Problems = { read?: unknown; refused?: string; cut?: [number, number] }
/** `progress` is how much of the earlier messages was looked through, 0 to 1; undefined when all were. */
type Shown = { rows: Rows; version: number; problems: Problems; waiting: number; progress: number | undefined }
type Held = { earlier: Message[]; live: Message[]; dropped: number }

const nothing = (): Held => ({ earlier: [], live: [], dropped: 0 })

export function useRows(wanted: Wanted, paused: boolean): Shown {
  const { device, module, filter } = wanted
  const [rows] = useState(() => new Rows())
  const [version, setVersion] = useState(0)
  const [problems, setProblems] = useState<Problems>({})
  const [progress, setProgress] = useState<number>()
  const held = useRef<Held>(nothing())
  /** Where the next page begins; undefined before the first was read. */
  const next = useRef<number>(undefined)
  const reading = useRef(false)
  const caughtUp = useRef(false)
  const pausing = useRef(paused)
  const live = useLiveState().kind === 'live'
  const topic = `telemetry:${encodeURIComponent(device)}${module === undefined ? '' : `/${encodeURIComponent(module)}`}${filter === undefined ? '' : `?${filter}`}`

  const flush = (): void => {
    if (pausing.current) {
      setVersion((value) => value + 0.001)
      return
    }
    const { earlier, live: news, dropped } = held.current
    // What the stream brings comes after all that is read by page.
    held.current = { ...nothing(), live: reading.current ? news : [] }
    rows.take(earlier, dropped)
    if (!reading.current) rows.take(news)
    setVersion(rows.version)
  }
  const read = async (signal: AbortSignal): Promise<void> => {
    if (reading.current) return
    reading.current = true
    try {
      next.current ??= await firstPlace(wanted, signal)
      const first = next.current
      let last: number | undefined
      for (let page = 1; ; page += 1) {
        const got = await messagesFrom(wanted, next.current, signal)
        next.current = got.next
        held.current.earlier.push(...got.messages)
        last = got.messages.at(-1)?.enqueuedTime === undefined ? last : Date.parse(got.messages.at(-1)?.enqueuedTime ?? '')
        if (got.next >= got.end) break
        if (page >= PAGES_MAX) {
          next.current = got.end
          const from = last ?? 0
          setProblems((before) => ({ ...before, cut: [from, Date.now()] }))
          break
        }
        setProgress((got.next - first) / Math.max(1, got.end - first))
        flush()
      }
      setProblems(({ read: _, ...rest }) => rest)
    } catch (error) {
      // The stream refuses the same filter in the same words, and is shown.
      const refused = error instanceof Failure && error.status === 400
      if (!signal.aborted && !refused) setProblems((before) => ({ ...before, read: error }))
    } finally {
      reading.current = false
      if (!signal.aborted) {
        setProgress(undefined)
        flush()
      }
    }
  }
  const abort = useRef(new AbortController())
  useEffect(() => {
    abort.current = new AbortController()
    void read(abort.current.signal)
    return () => abort.current.abort()
    // Once for each list: another device, module, filter or start is another list.
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
      const { live: waiting } = held.current
      waiting.push(...news.rows)
      held.current.dropped += dropped + news.skipped
      // While paused the newest wait; more than the list holds are let go and counted.
      const over = waiting.length - rows.ring.capacity
      if (over > 0) {
        waiting.splice(0, over)
        held.current.dropped += over
      }
      if (!caughtUp.current && !reading.current) {
        // The stream runs: what came between the first page and its beginning is read once more.
        caughtUp.current = true
        void read(abort.current.signal)
      }
      flush()
    },
    (refused) => setProblems((before) => ({ ...before, refused })),
  )
  return { rows, version, problems, waiting: held.current.earlier.length + held.current.live.length, progress }
}
