// Express with express-session and connect-session-sequelize, or bare without DATABASE_URL.
// The same paths as benchmarks/apps. 7.1.7 is the newest store for Node 20: 8.x needs Node 22.
const express = require('express')

const app = express()
const url = process.env.DATABASE_URL
const port = Number(process.argv[2])

async function main () {
  if (!url) {
    app.get(['/read', '/write'], (request, response) => response.type('text').send('0'))
  } else {
    const session = require('express-session')
    const { Sequelize } = require('sequelize')
    const SequelizeStore = require('connect-session-sequelize')(session.Store)
    const data = JSON.parse(process.env.SESSION_DATA)

    const db = new Sequelize(url, { dialect: 'postgres', logging: false, pool: { min: 10, max: 10 } })
    const store = new SequelizeStore({ db })
    await store.sync()
    app.use(session({ secret: process.env.SECRET, store, resave: false, saveUninitialized: false }))
    app.get('/read', (request, response) => {
      response.type('text').send(String(request.session.n || 0))
    })
    app.get('/write', (request, response) => {
      request.session.n = (request.session.n || 0) + 1
      response.type('text').send(String(request.session.n))
    })
    app.get('/fill', (request, response) => {
      Object.assign(request.session, data)
      response.type('text').send('0')
    })
  }
  app.listen(port, '127.0.0.1')
}

main()
