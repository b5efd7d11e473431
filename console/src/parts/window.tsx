/** A window onto many rows of one height: draws only what can be seen, whatever the count. */
import { useCallback, useLayoutEffect, useRef, useState, type CSSProperties, type ReactNode } from 'react'

/** Rows that are drawn beyond each end, so that a fast scroll shows no gap. */
const BEYOND = 8
/** Browsers' elements end near 33 million pixels. */
const PIXELS_MAX = 16_000_000

export type WindowProps = {
  count: number
  rowHeight: number
  height: number | string
  label: string
  className?: string
  /** `top`: what is new appears above and what one reads stays in place. `bottom`: the end is followed. */
  news: 'top' | 'bottom'
  /** Rows ever shown, growing; tells how far what one reads has moved. */
  total: number
  row: (index: number, style: CSSProperties) => ReactNode
}

export function Window({ count, rowHeight, height, label, className, news, total, row }: WindowProps): ReactNode {
  const box = useRef<HTMLDivElement>(null)
  const [view, setView] = useState({ top: 0, height: 400 })
  const before = useRef(total)
  const following = useRef(true)

  const look = useCallback(() => {
    const element = box.current
    if (!element) return
    following.current = element.scrollHeight - element.scrollTop - element.clientHeight < rowHeight
    setView((held) => (held.top === element.scrollTop && held.height === element.clientHeight ? held : { top: element.scrollTop, height: element.clientHeight }))
  }, [rowHeight])

  useLayoutEffect(() => {
    const element = box.current
    if (!element) return undefined
    const observer = new ResizeObserver(look)
    observer.observe(element)
    look()
    return () => observer.disconnect()
  }, [look])

  useLayoutEffect(() => {
    const element = box.current
    const added = total - before.current
    before.current = total
    if (!element || added <= 0) return
    if (news === 'bottom' && following.current) element.scrollTop = element.scrollHeight
    // At the very top one sees what arrives; further down one reads on undisturbed.
    else if (news === 'top' && element.scrollTop > rowHeight / 2) element.scrollTop += added * rowHeight
  }, [total, news, rowHeight])

  const shown = Math.min(count, Math.floor(PIXELS_MAX / rowHeight))
  const first = Math.max(0, Math.floor(view.top / rowHeight) - BEYOND)
  const last = Math.min(shown, Math.ceil((view.top + view.height) / rowHeight) + BEYOND)
  const rows: ReactNode[] = []
  for (let index = first; index < last; index += 1) rows.push(row(index, { top: index * rowHeight, height: rowHeight }))
  return (
    <div ref={box} className={`window ${className ?? ''}`} style={{ height }} onScroll={look} tabIndex={0} role="region" aria-label={label}>
      <div style={{ height: shown * rowHeight, position: 'relative' }}>{rows}</div>
    </div>
  )
}
